//! `weir-cni`: run by the container runtime, see the library.

use std::{
    env,
    io::{self, Read, Write},
    process::ExitCode,
};

use weir_cni::{
    error::{Code, Error},
    plugin::{self, Outcome},
};

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("--version") {
        println!("weir-cni {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let variable = |name: &str| env::var_os(name).map(|value| value.to_string_lossy().into_owned());
    let mut input = Vec::new();
    let outcome = match io::stdin().lock().read_to_end(&mut input) {
        Ok(_) => plugin::serve(variable, &String::from_utf8_lossy(&input)),
        Err(error) => {
            let error = Error::new(Code::Io, format!("cannot read the network configuration: {error}"));
            Outcome::Failed(error, "1.0.0".to_owned())
        }
    };
    let (output, code) = match outcome {
        Outcome::Done(output) => (output, ExitCode::SUCCESS),
        Outcome::Failed(error, version) => (error.document(&version), ExitCode::FAILURE),
    };
    // A runtime that has gone away does not read it.
    let _ = io::stdout().write_all(output.as_bytes());
    code
}
