//! weir's tasks: `cargo xtask <task>`.

mod console;
mod ebpf;
mod kernel_matrix;
mod machine;
mod proto;
mod workspace;

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "weir's tasks")]
enum Task {
    /// Rebuild ebpf/weir.bpf.o, or prove that the committed one is what the sources give
    Ebpf(ebpf::Args),
    /// Regenerate the committed protobuf code, or prove that it is what the protocols give
    Proto(proto::Args),
    /// Boot Debian's 6.1 and 6.12 kernels under QEMU and redirect connections there
    KernelMatrix(kernel_matrix::Args),
}

fn main() -> ExitCode {
    let outcome = match Task::parse() {
        Task::Ebpf(args) => ebpf::run(args),
        Task::Proto(args) => proto::run(args),
        Task::KernelMatrix(args) => kernel_matrix::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
