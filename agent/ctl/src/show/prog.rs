//! `prog list`.

use serde::{Deserialize, Serialize};
use weir_proto::agent::v1 as pb;

use super::{number, optional, rows::Rows, shown};
use crate::{
    table::Table,
    time::{Time, nanoseconds},
};

/// An eBPF program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Program {
    /// The kernel's id.
    pub id: u32,
    /// Its name, of which the kernel keeps 15 characters.
    pub name: String,
    r#type: String,
    tag: String,
    attach: Option<String>,
    link_id: Option<u32>,
    run_count: u64,
    run_time_ns: u64,
    loaded: Time,
    bytes_translated: u32,
    bytes_jited: u32,
    memlock: u64,
    pin: String,
}

impl From<pb::Program> for Program {
    fn from(program: pb::Program) -> Self {
        Self {
            id: program.id,
            name: program.name,
            r#type: program.r#type,
            tag: program.tag,
            attach: optional(program.attach),
            link_id: (program.link_id != 0).then_some(program.link_id),
            run_count: program.run_count,
            run_time_ns: program.run_time_ns,
            loaded: Time(program.loaded),
            bytes_translated: program.bytes_translated,
            bytes_jited: program.bytes_jited,
            memlock: program.memlock,
            pin: program.pin,
        }
    }
}

/// One line a program.
pub fn table(programs: &Rows<Program>) -> Table {
    programs.table(["ID", "NAME", "TYPE", "TAG", "ATTACHED", "LINK", "RUNS", "RUN-TIME", "PER-RUN"], |program| {
        let per_run = program.run_time_ns.checked_div(program.run_count);
        [
            program.id.to_string(),
            program.name.clone(),
            program.r#type.clone(),
            program.tag.clone(),
            shown(&program.attach).to_owned(),
            number(program.link_id),
            program.run_count.to_string(),
            nanoseconds(program.run_time_ns),
            per_run.map_or_else(String::new, nanoseconds),
        ]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_a_table() {
        let program = |id, run_count| {
            Program::from(pb::Program {
                id,
                name: "weir_connect4".to_owned(),
                r#type: "cgroup_sock_addr".to_owned(),
                tag: "00000000000000ab".to_owned(),
                attach: "cgroup /sys/fs/cgroup".to_owned(),
                link_id: 9,
                run_count,
                run_time_ns: run_count * 250,
                ..Default::default()
            })
        };
        assert_eq!(
            table(&Rows::here(vec![program(7, 8), program(12, 0)])).to_string(),
            "\
ID  NAME           TYPE              TAG               ATTACHED               LINK  RUNS  RUN-TIME  PER-RUN
7   weir_connect4  cgroup_sock_addr  00000000000000ab  cgroup /sys/fs/cgroup  9     8     2.0us     250ns
12  weir_connect4  cgroup_sock_addr  00000000000000ab  cgroup /sys/fs/cgroup  9     0     0ns       -
"
        );
        let value = crate::show::read_back(&program(7, 8));
        assert_eq!((&value["run_time_ns"], &value["loaded"]), (&2000.into(), &serde_json::Value::Null));
    }
}
