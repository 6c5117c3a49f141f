//! Completion scripts and manual pages, written by clap's generators from the grammar.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use clap::{Arg, ArgAction, ValueHint, builder::PossibleValuesParser};
use clap_complete::{Shell, generate};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{
    cli::Name,
    grammar::{CLUSTER, Command, GENERAL, HELP, OBJECTS, Object, Opt, Value},
    usage,
};

const WEIRCTL: &str = "weirctl";
/// The name of kubectl's plugin, and of its page.
const PLUGIN: &str = "kubectl-weir";
const ABOUT: &str = "shows what weir redirects, where and why";

/// Writes a completion script.
pub fn completion(name: Name, shell: &str) -> io::Result<String> {
    let program = match name {
        Name::Weirctl => WEIRCTL,
        Name::Kubectl | Name::Completer => PLUGIN,
    };
    let shell: Shell = shell.parse().map_err(io::Error::other)?;
    let mut script = Vec::new();
    generate(shell, &mut tree(program), program, &mut script);
    String::from_utf8(script).map_err(io::Error::other)
}

/// Writes the manual pages into a directory, which is made if there is none.
pub fn manual(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let write = |name: &str, page: &[u8]| fs::write(directory.join(format!("{name}.1")), page);
    write(WEIRCTL, &overview()?)?;
    for object in OBJECTS {
        write(&format!("{WEIRCTL}-{}", object.name), &page(object)?)?;
    }
    write(PLUGIN, b".so man1/weirctl.1\n")
}

/// The page of weirctl.
fn overview() -> io::Result<Vec<u8>> {
    let man = Man::new(program(WEIRCTL)).source(source());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for name in [Name::Weirctl, Name::Kubectl] {
        let words = format!(" [OPTIONS] OBJECT {{ COMMAND | {HELP} }}");
        roff.text([bold(name.typed()), roman(words)]).control("br", []);
    }
    roff.control("SH", ["OBJECTS"]);
    for object in OBJECTS {
        let see = format!("{}; see weirctl-{}(1)", object.about, object.name);
        roff.control("TP", []).text([bold(object.name)]).text([roman(see)]);
    }
    roff.to_writer(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    for (title, text) in usage::REMARKS {
        roff.control("SH", [*title]).text([roman(*text)]);
    }
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// The page of an object.
fn page(object: &'static Object) -> io::Result<Vec<u8>> {
    let mut seen: Vec<&str> = Vec::new();
    let mut command = clap::Command::new(format!("{WEIRCTL}-{}", object.name)).about(object.about);
    for option in object.commands.iter().flat_map(|command| command.options) {
        if !seen.contains(&option.long) {
            seen.push(option.long);
            command = command.arg(argument(option));
        }
    }
    let man = Man::new(command.disable_help_flag(true)).source(source());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["SYNOPSIS"]);
    for command in object.commands {
        roff.text([roman(usage::line(Name::Weirctl, object, command))]).control("br", []);
    }
    for (name, is) in usage::meanings(Name::Weirctl, object) {
        roff.control("PP", []).text([roman(format!("{name} := {is}"))]);
    }
    roff.control("SH", ["COMMANDS"]);
    for command in object.commands {
        let name = if command.name.is_empty() { object.name } else { command.name };
        roff.control("TP", []).text([bold(name)]).text([roman(command.about)]);
    }
    roff.to_writer(&mut page)?;
    if !seen.is_empty() {
        man.render_options_section(&mut page)?;
    }
    let mut roff = Roff::new();
    if !object.notes.is_empty() {
        roff.control("SH", ["NOTES"]).text([roman(object.notes)]);
    }
    roff.control("SH", ["SEE ALSO"]).text([roman("weirctl(1), with the options of every command")]);
    roff.to_writer(&mut page)?;
    page.flush()?;
    Ok(page)
}

fn source() -> String {
    format!("weir {}", env!("CARGO_PKG_VERSION"))
}

/// The program with its general options.
fn program(name: &'static str) -> clap::Command {
    let program = clap::Command::new(name).about(ABOUT).disable_help_flag(true).disable_help_subcommand(true);
    GENERAL.iter().chain(CLUSTER).fold(program, |program, option| program.arg(argument(option).global(true)))
}

/// The grammar as clap has it.
fn tree(name: &'static str) -> clap::Command {
    let help = || clap::Command::new(HELP).about("help");
    let objects = OBJECTS.iter().map(|object| {
        let mut tree = clap::Command::new(object.name).about(object.about).disable_help_subcommand(true);
        for command in object.commands {
            tree = match command.name {
                "" => with_arguments(tree, command),
                name => tree.subcommand(with_arguments(clap::Command::new(name).about(command.about), command)),
            };
        }
        tree.subcommand(help())
    });
    program(name).subcommands(objects).subcommand(help())
}

fn with_arguments(tree: clap::Command, command: &'static Command) -> clap::Command {
    let tree = tree.args(command.options.iter().map(argument));
    match &command.value {
        Some(value) => tree.arg(taking(Arg::new(value.name), value).required(command.required)),
        None => tree,
    }
}

fn argument(option: &'static Opt) -> Arg {
    let argument = Arg::new(option.long).long(option.long).help(option.about);
    let argument = match option.short {
        Some(short) => argument.short(short),
        None => argument,
    };
    match &option.value {
        Some(value) => taking(argument, value).action(ArgAction::Set),
        None => argument.action(ArgAction::SetTrue),
    }
}

/// An argument whose words shells can complete.
fn taking(argument: Arg, value: &'static Value) -> Arg {
    let argument = argument.value_name(value.name);
    match (value.path, value.among) {
        (true, _) => argument.value_hint(ValueHint::AnyPath),
        (false, []) => argument,
        (false, among) => argument.value_parser(PossibleValuesParser::new(among)).hide_possible_values(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command as Process;

    #[test]
    fn completion_knows_every_word() {
        for shell in crate::grammar::SHELLS {
            for name in [Name::Weirctl, Name::Kubectl] {
                let script = completion(name, shell).unwrap();
                for object in OBJECTS {
                    assert!(script.contains(object.name), "{shell}: {}", object.name);
                    for command in object.commands {
                        assert!(script.contains(command.name), "{shell}: {} {}", object.name, command.name);
                    }
                }
                for option in crate::grammar::options().filter(|option| option.long != "agent") {
                    assert!(script.contains(option.long), "{shell}: --{}", option.long);
                }
                // For fish, clap writes the words of options only.
                assert!(script.contains("mptcp") && (*shell == "fish" || script.contains("ENROLLED")), "{shell}");
            }
        }
    }

    #[test]
    fn bash_takes_the_script_and_completes() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("weirctl.bash");
        fs::write(&script, completion(Name::Weirctl, "bash").unwrap()).unwrap();
        let complete = format!(
            "source {}; COMP_WORDS=(weirctl redirect s); COMP_CWORD=2; _weirctl weirctl s redirect; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let output = Process::new("bash").args(["--norc", "-c", &complete]).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "show");
        let checked = Process::new("bash").arg("-n").arg(&script).output().unwrap();
        assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    }

    #[test]
    fn every_object_has_a_page_with_its_commands_and_options() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("man/man1");
        manual(&directory).unwrap();
        let read = |name: &str| fs::read_to_string(directory.join(name)).unwrap().replace("\\-", "-");
        let overview = read("weirctl.1");
        assert!(overview.contains(".SH OBJECTS") && overview.contains("--kubeconfig"), "{overview}");
        assert_eq!(read("kubectl-weir.1"), ".so man1/weirctl.1\n");
        for object in OBJECTS {
            let page = read(&format!("weirctl-{}.1", object.name));
            assert!(overview.contains(&format!("weirctl-{}(1)", object.name)), "{}", object.name);
            for command in object.commands {
                assert!(page.contains(command.name), "{page}");
                for option in command.options {
                    assert!(page.contains(&format!("--{}", option.long)), "--{}: {page}", option.long);
                }
            }
        }
    }
}
