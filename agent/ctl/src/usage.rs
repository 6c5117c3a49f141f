//! What `help` prints, as bpftool does, from the grammar.

use std::fmt::Write;

use crate::{
    cli::Name,
    grammar::{CLUSTER, Command, GENERAL, HELP, OBJECTS, Object, Opt, Value},
};

/// How wide a line may be.
const WIDTH: usize = 100;
/// Where what explains a name starts, unless the names are wider.
const COLUMN: usize = 18;

/// What there is to know of every command.
pub const REMARKS: &[(&str, &str)] = &[
    (
        "Abbreviation",
        "objects and commands may be shortened to any prefix that only one of them has; uninstall, completion and man \
         are written out.",
    ),
    (
        "Exit codes",
        "0 done; 1 an agent, a node or the cluster is unreachable or has no answer; 2 the command line is wrong; 3 \
         (status --check) something needs attention.",
    ),
];

/// The help text on an object or in general, ending with a line break.
pub fn text(name: Name, object: Option<&'static Object>) -> String {
    match object {
        Some(object) => of_object(name, object),
        None => general(name),
    }
}

fn general(name: Name) -> String {
    let program = name.typed();
    let objects: Vec<&str> = OBJECTS.iter().map(|object| object.name).collect();
    let mut text = format!("Usage: {program} [OPTIONS] OBJECT {{ COMMAND | {HELP} }}\n\n");
    wrap(&mut text, 7, &format!("OBJECT := {{ {} }}", objects.join(" | ")));
    text.push('\n');
    explained(&mut text, OBJECTS.iter().map(|object| (object.name.to_owned(), object.about)));
    text.push('\n');
    explained(&mut text, GENERAL.iter().map(|option| (shown(option), option.about)));
    let of_cluster = match name {
        Name::Weirctl => "\n       For a whole cluster, as kubectl weir does:\n\n",
        Name::Kubectl | Name::Completer => "\n       Which cluster, and whom there:\n\n",
    };
    text.push_str(of_cluster);
    explained(&mut text, CLUSTER.iter().map(|option| (shown(option), option.about)));
    for (title, remark) in REMARKS {
        text.push('\n');
        wrap(&mut text, 7, &format!("{title}: {remark}"));
    }
    text
}

fn of_object(name: Name, object: &'static Object) -> String {
    let mut text = String::new();
    for command in object.commands {
        let lead = if text.is_empty() { "Usage: " } else { "       " };
        hang(&mut text, lead, 15, &line(name, object, command));
    }
    let _ = writeln!(text, "       {} {} {HELP}", name.typed(), object.name);
    let meanings = meanings(name, object);
    if !meanings.is_empty() {
        text.push('\n');
    }
    for (word, is) in meanings {
        let _ = writeln!(text, "       {word} := {is}");
    }
    text.push('\n');
    let mut seen: Vec<&str> = Vec::new();
    let mut lines: Vec<(String, &str)> = Vec::new();
    for command in object.commands {
        lines.push((if command.name.is_empty() { object.name } else { command.name }.to_owned(), command.about));
        for option in command.options {
            if !seen.contains(&option.long) {
                seen.push(option.long);
                lines.push((shown(option), option.about));
            }
        }
    }
    explained(&mut text, lines.into_iter());
    if !object.notes.is_empty() {
        text.push('\n');
        wrap(&mut text, 7, object.notes);
    }
    text
}

/// What a command takes, as a usage line says it.
pub fn line(name: Name, object: &Object, command: &Command) -> String {
    let mut line = format!("{} {}", name.typed(), object.name);
    if !command.name.is_empty() {
        line = format!("{line} {}", command.name);
    }
    if let Some(value) = &command.value {
        let _ = if command.required { write!(line, " {}", value.name) } else { write!(line, " [{}]", value.name) };
    }
    for option in command.options {
        let _ = write!(line, " [--{}", option.long);
        if let Some(value) = &option.value {
            let _ = write!(line, " {}", value.name);
        }
        line.push(']');
    }
    line
}

/// What the words of an object's usage stand for.
pub fn meanings(name: Name, object: &'static Object) -> Vec<(&'static str, String)> {
    let mut meanings: Vec<(&str, String)> = Vec::new();
    for value in object.commands.iter().flat_map(values) {
        if !value.is.is_empty() && meanings.iter().all(|(known, _)| *known != value.name) {
            // Through the API server there are no names but these.
            let is = if name == Name::Kubectl { value.is.replace("UID | ", "") } else { value.is.to_owned() };
            meanings.push((value.name, is));
        }
    }
    meanings
}

fn values(command: &'static Command) -> impl Iterator<Item = &'static Value> {
    command.value.iter().chain(command.options.iter().filter_map(|option| option.value.as_ref()))
}

/// An option as it is written.
fn shown(option: &Opt) -> String {
    let mut text = option.short.map_or_else(String::new, |short| format!("-{short}, "));
    let _ = write!(text, "--{}", option.long);
    if let Some(value) = &option.value {
        let _ = write!(text, " {}", value.name);
    }
    text
}

/// Names and, in a column, what they are.
fn explained<'a>(text: &mut String, lines: impl Iterator<Item = (String, &'a str)> + Clone) {
    let width = lines.clone().map(|(name, _)| name.len() + 2).max().unwrap_or_default().clamp(COLUMN, 2 * COLUMN - 6);
    for (name, about) in lines {
        hang(text, &format!("    {name:<width$}"), 4 + width, about);
    }
}

/// A paragraph with a margin.
fn wrap(text: &mut String, margin: usize, paragraph: &str) {
    hang(text, &" ".repeat(margin), margin, paragraph);
}

/// A paragraph whose first line starts with `lead` and the others at a margin.
fn hang(text: &mut String, lead: &str, margin: usize, paragraph: &str) {
    let mut line = lead.to_owned();
    let mut empty = true;
    // What stands in brackets stays together.
    let mut words: Vec<String> = Vec::new();
    for word in paragraph.split(' ') {
        match words.last_mut() {
            Some(last) if last.starts_with('[') && !last.ends_with(']') => *last = format!("{last} {word}"),
            _ => words.push(word.to_owned()),
        }
    }
    for word in words {
        if !empty && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line = " ".repeat(margin);
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(&word);
        empty = false;
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> &'static Object {
        OBJECTS.iter().find(|object| object.name == name).unwrap()
    }

    #[test]
    fn an_object_has_its_commands_words_and_options() {
        assert_eq!(
            text(Name::Weirctl, Some(object("map"))),
            "\
Usage: weirctl map list
       weirctl map show
       weirctl map dump NAME
       weirctl map help

    list              weir's eBPF maps
    show              the same
    dump              the entries of a map, decoded; per-CPU values summed, unused array entries
                      left out
"
        );
        let redirect = text(Name::Weirctl, Some(object("redirect")));
        assert!(
            redirect.starts_with(
                "\
Usage: weirctl redirect list [POD] [--all]
       weirctl redirect show [POD] [--to IP:PORT] [--from FROM] [--protocol PROTOCOL] [--all]
       weirctl redirect help

       POD := { UID | NAMESPACE/NAME | NAME }
       FROM := { pod | node | host-pod | IP }
       PROTOCOL := { tcp | mptcp | udp }

"
            ),
            "{redirect}"
        );
        assert!(text(Name::Kubectl, Some(object("redirect"))).contains("POD := { NAMESPACE/NAME | NAME }"));
    }

    #[test]
    fn everything_is_there_and_no_line_is_too_long() {
        for name in [Name::Weirctl, Name::Kubectl] {
            let mut all = text(name, None);
            for object in OBJECTS {
                assert!(all.contains(&format!("    {:<12}", object.name)), "{}", object.name);
                all.push_str(&text(name, Some(object)));
            }
            for option in crate::grammar::options().filter(|option| option.long != "agent") {
                assert!(all.contains(&format!("--{}", option.long)), "{}", option.long);
            }
            for line in all.lines() {
                assert!(line.len() <= WIDTH && !line.ends_with(' '), "{line:?}");
            }
        }
    }
}
