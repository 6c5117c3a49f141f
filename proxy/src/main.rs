//! The weir-proxy binary.

use std::process::ExitCode;

use clap::Parser;
use weir_proxy::{bootstrap, options::Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match bootstrap::run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-proxy: {error}");
            ExitCode::FAILURE
        }
    }
}
