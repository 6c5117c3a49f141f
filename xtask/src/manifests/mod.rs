//! `cargo xtask manifests`: what is made from the chart and committed.
//!
//! `deploy/weir.yaml` is the chart rendered with its defaults, for those without helm; the table in the chart's
//! README.md is its values.yaml. `--check` renders both and compares.

mod values;

use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::PathBuf;

use crate::helm;
use crate::machine::{Machine, output};
use crate::workspace;

/// Around the table of values in the chart's README.md.
const TABLE_START: &str = "<!-- values: written by `cargo xtask manifests` -->\n";
const TABLE_END: &str = "<!-- end of values -->\n";
const HEADER: &str = "\
# weir with the chart's defaults, for `kubectl apply`: rendered from deploy/helm/weir by `cargo xtask manifests`.
# `kubectl delete` alone leaves programs and pins in the nodes: run `kubectl weir uninstall` first, which is what the
# chart's pre-delete hook does.
";

/// Arguments of `cargo xtask manifests`.
#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail unless the committed files are what the chart gives
    #[arg(long)]
    check: bool,
}

impl Args {
    /// As `--check` gives them.
    pub fn check() -> Self {
        Self { check: true }
    }
}

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    let mut machine = Machine::prepare(&[])?;
    helm::provide(&mut machine)?;
    let chart = workspace::root().join("deploy/helm/weir");
    let readme = chart.join("README.md");
    let made = [
        (workspace::root().join("deploy/weir.yaml"), rendered(&machine)?),
        (readme.clone(), with_table(&read(&readme)?, &values::table(&read(&chart.join("values.yaml"))?)?)?),
    ];
    let mut differing = Vec::new();
    for (path, content) in made {
        let name = path.strip_prefix(workspace::root()).unwrap_or(&path).display().to_string();
        if fs::read_to_string(&path).ok().as_ref() == Some(&content) {
            println!("{name} is what the chart gives");
        } else if args.check {
            differing.push(name);
        } else {
            fs::write(&path, content).with_context(|| name.clone())?;
            println!("{name} written");
        }
    }
    ensure!(
        differing.is_empty(),
        "{} not what the chart gives: run `cargo xtask manifests` and commit",
        differing.join(" and ") + if differing.len() == 1 { " is" } else { " are" }
    );
    Ok(())
}

fn read(path: &PathBuf) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

/// The chart's objects. Hooks are left out: what deletes weir must not be applied with it.
fn rendered(machine: &Machine) -> Result<String> {
    let mut helm = machine.command("helm");
    helm.args(["template", "weir", "deploy/helm/weir", "--no-hooks"]).current_dir(workspace::root());
    normal(&output(&mut helm)?)
}

/// The documents as every version of helm gives them: without its remarks and its empty lines between documents.
fn normal(rendered: &str) -> Result<String> {
    let mut text = HEADER.to_owned();
    for document in format!("\n{rendered}").split("\n---\n") {
        let lines: Vec<&str> =
            document.trim().lines().filter(|line| !line.starts_with("# Source: ")).map(str::trim_end).collect();
        if lines.iter().any(|line| !line.is_empty()) {
            text.push_str("---\n");
            text.push_str(&lines.join("\n"));
            text.push('\n');
        }
    }
    if text == HEADER {
        bail!("helm template rendered nothing");
    }
    Ok(text)
}

fn with_table(readme: &str, table: &str) -> Result<String> {
    let marks = format!("README.md has no lines {TABLE_START:?} and {TABLE_END:?}");
    let (before, rest) = readme.split_once(TABLE_START).context(marks.clone())?;
    let (_, after) = rest.split_once(TABLE_END).context(marks)?;
    Ok(format!("{before}{TABLE_START}{table}{TABLE_END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_the_same_whatever_helm_puts_between_them() {
        let three = "---\n# Source: weir/templates/a.yaml\nkind: A\n---\n# Source: weir/templates/b.yaml\nkind: B\n";
        let four =
            "---\n# Source: weir/templates/a.yaml\nkind: A\n\n---\n# Source: weir/templates/b.yaml\nkind: B  \n\n";
        assert_eq!(normal(three).unwrap(), format!("{HEADER}---\nkind: A\n---\nkind: B\n"));
        assert_eq!(normal(four).unwrap(), normal(three).unwrap());
        assert!(normal("\n").is_err());
    }

    #[test]
    fn the_table_goes_where_the_readme_says() {
        let readme = format!("# Chart\n{TABLE_START}old\n{TABLE_END}rest\n");
        assert_eq!(with_table(&readme, "new\n").unwrap(), format!("# Chart\n{TABLE_START}new\n{TABLE_END}rest\n"));
        assert!(with_table("# Chart\n", "new\n").unwrap_err().to_string().starts_with("README.md has no lines"));
    }
}
