//! weir's tasks: `cargo xtask <task>`.

mod bench;
mod console;
mod demo;
mod deny;
mod ebpf;
mod fuzz;
mod helm;
mod image;
mod kernel_matrix;
mod machine;
mod manifests;
mod profile;
mod proto;
mod soak;
mod test;
mod workspace;

use clap::Parser;
use std::fmt;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "weir's tasks")]
enum Task {
    /// Show weir between two nodes on this machine, with real connections
    Demo(demo::Args),
    /// Rebuild ebpf/weir.bpf.o, or prove that the committed one is what the sources give
    Ebpf(ebpf::Args),
    /// Regenerate the committed protobuf code, or prove that it is what the protocols give
    Proto(proto::Args),
    /// Run every test: unit, end-to-end, generated files, kernel matrix
    Test(test::Args),
    /// Check the dependencies' licences, sources and duplicates
    Deny(deny::Args),
    /// Render the chart to deploy/weir.yaml, or prove that the committed files are what it gives
    Manifests(manifests::Args),
    /// Make the container images, as archives, without a container engine
    Image(image::Args),
    /// Feed what reads bytes from outside with made-up input
    Fuzz(fuzz::Args),
    /// Measure weir beside other proxies
    Bench(bench::Args),
    /// Record which code of weir-proxy runs under load, for release builds to go by
    Profile(profile::Args),
    /// Load weir-proxy with everything at once, and see that it does not grow
    Soak(soak::Args),
    /// Boot Debian's 6.1 and 6.12 kernels under QEMU and redirect connections there
    KernelMatrix(kernel_matrix::Args),
}

/// A failure that the task has told in its own words: `main` adds none, so that the task's last line stays the last.
#[derive(Debug)]
struct Silent(&'static str);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Silent {}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Demo(args) => demo::run(args),
        Task::Ebpf(args) => ebpf::run(args),
        Task::Proto(args) => proto::run(args),
        Task::Test(args) => test::run(args),
        Task::Deny(args) => deny::run(args),
        Task::Manifests(args) => manifests::run(args),
        Task::Image(args) => image::run(args),
        Task::Fuzz(args) => fuzz::run(args),
        Task::Bench(args) => bench::run(args),
        Task::Profile(args) => profile::run(&args),
        Task::Soak(args) => soak::run(args),
        Task::KernelMatrix(args) => kernel_matrix::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Silent>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
