//! `cargo xtask test`: every test there is, with one honest sum at the end.
//!
//! The workspace is built once, in the debug profile, tests and programs together, and the test programs are run from
//! here: unit tests, documentation tests, the proofs that committed generated files are what the sources give, the
//! end-to-end tests (which find weir's programs beside them) and the kernel matrix. libtest's own `test result:` lines
//! are added up; a program that ends badly without saying which test failed counts as one failure, and so does each
//! check and each kernel.

use anyhow::{Context, Result, bail};
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::console::{self, Style};
use crate::ebpf;
use crate::helm;
use crate::kernel_matrix::{self, Programs, Series};
use crate::machine::{Machine, Need};
use crate::manifests;
use crate::proto;
use crate::workspace::{self, Built, TestProgram};

/// A test program or a check that takes longer hangs.
const CEILING: Duration = Duration::from_secs(20 * 60);
/// The package of the end-to-end tests.
const END_TO_END: &str = "tests";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only tests whose name contains this; leaves out the checks of generated files and the kernel matrix
    filter: Option<String>,
    /// Leave out the end-to-end tests
    #[arg(long)]
    no_end_to_end: bool,
    /// Leave out `ebpf --check`, `proto --check` and `manifests --check`
    #[arg(long)]
    no_checks: bool,
    /// Leave out the kernels under QEMU
    #[arg(long)]
    no_matrix: bool,
}

impl Args {
    fn wants_end_to_end(&self) -> bool {
        !self.no_end_to_end
    }

    fn wants_checks(&self) -> bool {
        !self.no_checks && self.filter.is_none()
    }

    fn wants_matrix(&self) -> bool {
        !self.no_matrix && self.filter.is_none()
    }

    fn needs(&self) -> Vec<Need> {
        let mut needs = vec![Need::Build];
        if self.wants_end_to_end() {
            needs.extend([Need::Namespaces, Need::EndToEnd]);
        }
        if self.wants_matrix() {
            needs.push(Need::Emulator);
        }
        needs
    }
}

/// Tests that passed, failed and were ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// One thing that passed or failed as a whole.
    fn one(passed: bool) -> Self {
        if passed { Self { passed: 1, ..Self::default() } } else { Self { failed: 1, ..Self::default() } }
    }

    /// The sum of the `test result:` lines of a runner that ended with `succeeded`.
    fn of_runner(results: &[Self], succeeded: bool) -> Self {
        let mut sum = Self::default();
        for result in results {
            sum.add(*result);
        }
        // It crashed, hung, did not build, or was no test runner at all.
        if !succeeded && sum.failed == 0 || results.is_empty() {
            sum.failed += 1;
        }
        sum
    }

    /// A line of libtest: `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s`.
    fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count =
            |what: &str| counts.split("; ").find_map(|part| part.strip_suffix(what)?.trim().parse::<usize>().ok());
        Some(Self { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// A part of the whole, for the closing table.
struct Part {
    name: String,
    tally: Tally,
    took: Duration,
}

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    let mut machine = Machine::prepare(&args.needs())?;
    if args.wants_checks() || args.wants_end_to_end() {
        helm::provide(&mut machine)?;
    }
    console::heading("Build (debug)");
    let built = workspace::build(&machine, &["--workspace", "--all-targets"])?;
    let mut parts = Vec::new();

    let units: Vec<&TestProgram> = built.tests.iter().filter(|test| !is_end_to_end(test)).collect();
    parts.push(part("unit tests", || run_programs(&machine, &units, args.filter.as_deref())));
    parts.push(part("documentation tests", || run_documentation_tests(&machine, args.filter.as_deref())));
    if args.wants_checks() {
        parts.push(part("ebpf --check", || Ok(run_check("ebpf --check", || ebpf::run(ebpf::Args::check())))));
        parts.push(part("proto --check", || Ok(run_check("proto --check", || proto::run(proto::Args::check())))));
        parts.push(part("manifests --check", || {
            Ok(run_check("manifests --check", || manifests::run(manifests::Args::check())))
        }));
    }
    if args.wants_end_to_end() {
        let programs: Vec<&TestProgram> = built.tests.iter().filter(|test| is_end_to_end(test)).collect();
        parts.push(part("end-to-end tests", || run_programs(&machine, &programs, args.filter.as_deref())));
    }
    if args.wants_matrix() {
        parts.push(part("kernel matrix", || run_matrix(&machine, &built)));
    }
    close(&parts)
}

fn is_end_to_end(test: &TestProgram) -> bool {
    !test.is_unit && test.package_directory.ends_with(END_TO_END)
}

fn part(name: &str, run: impl FnOnce() -> Result<Tally>) -> Part {
    console::heading(name);
    let started = Instant::now();
    let tally = run().unwrap_or_else(|error| {
        println!("{} {name}: {error:#}", console::paint(Style::Red, "FAILED"));
        Tally::one(false)
    });
    Part { name: name.to_owned(), tally, took: started.elapsed() }
}

/// Prints the table and the sum; an error if something failed or nothing ran.
fn close(parts: &[Part]) -> Result<()> {
    let mut sum = Tally::default();
    console::heading("Results");
    for Part { name, tally, took } in parts {
        sum.add(*tally);
        let ignored = if tally.ignored > 0 { format!(", {} ignored", tally.ignored) } else { String::new() };
        println!("  {name:<22} {:>6} passed {:>4} failed {:>6} s{ignored}", tally.passed, tally.failed, took.as_secs());
    }
    if sum.ignored > 0 {
        println!("  {} tests are marked ignored and did not run", sum.ignored);
    }
    println!();
    println!("{sum}");
    verdict(sum)
}

fn verdict(sum: Tally) -> Result<()> {
    match sum {
        Tally { failed: 0, passed: 0, .. } => bail!(crate::Silent("no test ran")),
        Tally { failed: 0, .. } => Ok(()),
        _ => bail!(crate::Silent("tests failed")),
    }
}

fn run_programs(machine: &Machine, programs: &[&TestProgram], filter: Option<&str>) -> Result<Tally> {
    let mut sum = Tally::default();
    for program in programs {
        println!("{}", console::paint(Style::Dim, &format!("-- {}", describe(program))));
        let mut command = machine.command(&program.executable);
        // What cargo test sets.
        command
            .args(filter)
            .current_dir(&program.package_directory)
            .env("CARGO_MANIFEST_DIR", &program.package_directory);
        sum.add(run_runner(&mut command)?);
    }
    Ok(sum)
}

fn describe(program: &TestProgram) -> String {
    let directory = program.package_directory.strip_prefix(workspace::root()).unwrap_or(&program.package_directory);
    let kind = if program.is_unit { "unit tests of" } else { "tests" };
    format!("{kind} {} ({})", program.name, directory.display())
}

fn run_documentation_tests(machine: &Machine, filter: Option<&str>) -> Result<Tally> {
    let mut command = machine.command(workspace::cargo());
    command.args(["test", "--quiet", "--workspace", "--doc", "--no-fail-fast", "--"]).args(filter);
    run_runner(command.current_dir(workspace::root()))
}

/// In this process: the program that it runs from may have been built anew by the tests' build.
fn run_check(name: &str, check: impl FnOnce() -> Result<()>) -> Tally {
    let outcome = check();
    match &outcome {
        Ok(()) => println!("{} {name}", console::paint(Style::Green, "ok")),
        Err(error) => println!("{} {name}: {error:#}", console::paint(Style::Red, "FAILED")),
    }
    Tally::one(outcome.is_ok())
}

fn run_matrix(machine: &Machine, built: &Built) -> Result<Tally> {
    let passed = kernel_matrix::run_all(machine, &Programs::of(built)?, &Series::ALL, false);
    Ok(Tally { passed, failed: Series::ALL.len() - passed, ignored: 0 })
}

/// Runs a libtest runner, passing its output on, and reads its sums.
fn run_runner(command: &mut Command) -> Result<Tally> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name} does not start"))?;
    let mut results = Vec::new();
    let in_time = pass_on(&mut child, |line| results.extend(Tally::parse(line)))?;
    if !in_time {
        println!("{name} hangs: stopped after {} s", CEILING.as_secs());
        child.kill().with_context(|| format!("{name} cannot be stopped"))?;
    }
    let status = child.wait().with_context(|| name.clone())?;
    let tally = Tally::of_runner(&results, status.success() && in_time);
    if !status.success() && results.iter().all(|result| result.failed == 0) {
        println!("{} {name}: {status}", console::paint(Style::Red, "FAILED"));
    }
    Ok(tally)
}

/// Copies the child's standard output until it ends; tells whether that was before [`CEILING`].
fn pass_on(child: &mut Child, mut look: impl FnMut(&str)) -> Result<bool> {
    let stdout = child.stdout.take().context("the output is not piped")?;
    let (lines, received) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + CEILING;
    loop {
        match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                std::io::stdout().flush().context("standard output")?;
                look(&line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(true),
            Err(RecvTimeoutError::Timeout) => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: usize, failed: usize, ignored: usize) -> Tally {
        Tally { passed, failed, ignored }
    }

    #[test]
    fn result_lines_are_read() {
        let ok = "test result: ok. 31 passed; 0 failed; 2 ignored; 0 measured; 4 filtered out; finished in 1.25s";
        assert_eq!(Tally::parse(ok), Some(tally(31, 0, 2)));
        let bad = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(Tally::parse(bad), Some(tally(3, 2, 0)));
        assert_eq!(Tally::parse("test redirect::result ... ok"), None);
        assert_eq!(Tally::parse("test result: nonsense"), None);
    }

    #[test]
    fn a_runner_that_ends_badly_counts_as_a_failure() {
        assert_eq!(Tally::of_runner(&[tally(3, 0, 0), tally(2, 0, 1)], true), tally(5, 0, 1));
        assert_eq!(Tally::of_runner(&[tally(3, 1, 0)], false), tally(3, 1, 0));
        // Aborted after a good result, or before any.
        assert_eq!(Tally::of_runner(&[tally(3, 0, 0)], false), tally(3, 1, 0));
        assert_eq!(Tally::of_runner(&[], false), tally(0, 1, 0));
        assert_eq!(Tally::of_runner(&[], true), tally(0, 1, 0));
    }

    #[test]
    fn nothing_run_is_no_success() {
        assert!(verdict(tally(0, 0, 7)).is_err());
        assert!(verdict(tally(5, 1, 0)).is_err());
        assert!(verdict(tally(5, 0, 0)).is_ok());
    }

    #[test]
    fn real_runners_are_summed_and_crashes_noticed() {
        let shell = |script: &str| run_runner(Command::new("sh").args(["-c", script])).unwrap();
        let line = "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(shell(&format!("echo '{line}'")), tally(2, 0, 0));
        assert_eq!(shell(&format!("echo '{line}'; kill -SEGV $$")), tally(2, 1, 0));
        assert_eq!(shell("exit 101"), tally(0, 1, 0));
    }
}
