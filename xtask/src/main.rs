//! weir's tasks: `cargo xtask <task>`.

mod ebpf;
mod proto;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "weir's tasks")]
enum Task {
    /// Rebuild ebpf/weir.bpf.o, or prove that the committed one is what the sources give
    Ebpf(ebpf::Args),
    /// Regenerate the committed protobuf code
    Proto(proto::Args),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Ebpf(args) => ebpf::run(args),
        Task::Proto(args) => proto::run(args),
    }
}
