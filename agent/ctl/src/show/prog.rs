//! `prog list`.

use serde_json::{Value, json};
use weir_proto::agent::v1::Program;

use super::optional;
use crate::{
    table::Table,
    time::{nanoseconds, rfc3339},
};

/// One line a program.
pub fn table(programs: &[Program]) -> Table {
    let mut table = Table::new(["ID", "NAME", "TYPE", "TAG", "ATTACHED", "LINK", "RUNS", "RUN-TIME", "PER-RUN"]);
    for program in programs {
        let per_run = program.run_time_ns.checked_div(program.run_count);
        table.row([
            program.id.to_string(),
            program.name.clone(),
            program.r#type.clone(),
            program.tag.clone(),
            program.attach.clone(),
            if program.link_id == 0 { String::new() } else { program.link_id.to_string() },
            program.run_count.to_string(),
            nanoseconds(program.run_time_ns),
            per_run.map_or_else(String::new, nanoseconds),
        ]);
    }
    table
}

/// A program as JSON.
pub fn json(program: &Program) -> Value {
    json!({
        "id": program.id,
        "name": program.name,
        "type": program.r#type,
        "tag": program.tag,
        "attach": optional(&program.attach),
        "link_id": (program.link_id != 0).then_some(program.link_id),
        "run_count": program.run_count,
        "run_time_ns": program.run_time_ns,
        "loaded": optional(&rfc3339(program.loaded)),
        "bytes_translated": program.bytes_translated,
        "bytes_jited": program.bytes_jited,
        "memlock": program.memlock,
        "pin": program.pin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_a_table() {
        let program = |id, run_count| Program {
            id,
            name: "weir_connect4".to_owned(),
            r#type: "cgroup_sock_addr".to_owned(),
            tag: "00000000000000ab".to_owned(),
            attach: "cgroup /sys/fs/cgroup".to_owned(),
            link_id: 9,
            run_count,
            run_time_ns: run_count * 250,
            ..Default::default()
        };
        assert_eq!(
            table(&[program(7, 8), program(12, 0)]).to_string(),
            "\
ID  NAME           TYPE              TAG               ATTACHED               LINK  RUNS  RUN-TIME  PER-RUN
7   weir_connect4  cgroup_sock_addr  00000000000000ab  cgroup /sys/fs/cgroup  9     8     2.0us     250ns
12  weir_connect4  cgroup_sock_addr  00000000000000ab  cgroup /sys/fs/cgroup  9     0     0ns       -
"
        );
        assert_eq!(json(&program(7, 8))["run_time_ns"], 2000);
    }
}
