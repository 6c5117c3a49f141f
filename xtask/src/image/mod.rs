//! `cargo xtask image`: the container images, as archives, without any container engine.
//!
//! From scratch: static programs, the users' names, a bill of materials, the licence. The same sources and toolchain
//! give the same layers, bit for bit. `deploy/Dockerfile` makes images of the same layout with an engine.

pub mod build;
mod elf;
mod oci;
mod sbom;
mod tar;

use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use crate::console;
use crate::machine::{Machine, Need, output};
use crate::workspace;
use build::Architecture;
use oci::{Description, Image};
use tar::Archive;

/// The user that images run as, unless told otherwise.
const USER: &str = "65532:65532";

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Args {
    /// Directory of the archives [default: image in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Architectures [default: those that this machine can build for]
    #[arg(long, value_enum)]
    arch: Vec<Architecture>,
    /// What image names start with
    #[arg(long, value_name = "NAME", default_value = "ghcr.io/weir-mesh")]
    repository: String,
    /// Write the root file systems as tar files, too
    #[arg(long)]
    rootfs: bool,
    /// Tag of the images [default: the workspace's version]
    #[arg(long)]
    tag: Option<String>,
}

/// What an image holds.
struct Content {
    name: &'static str,
    about: &'static str,
    /// Programs, each of the package of that name; the first one is what runs.
    programs: &'static [&'static str],
}

const IMAGES: [Content; 2] = [
    Content {
        name: "weir-agent",
        about: "weir's node agent, its CNI plugin and weirctl",
        programs: &["weir-agent", "weirctl", "weir-cni"],
    },
    Content { name: "weir-proxy", about: "weir's data plane", programs: &["weir-proxy"] },
];

/// Runs the task.
pub fn run(args: Args) -> Result<()> {
    let started = Instant::now();
    let machine = Machine::prepare(&[Need::Build])?;
    let output = args.output.clone().unwrap_or_else(|| build::target_directory().join("image"));
    fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
    let architectures = architectures(&machine, &args.arch)?;
    let packages: Vec<&str> = IMAGES.iter().flat_map(|image| image.programs).copied().collect();
    let mut built = Vec::new();
    for architecture in architectures {
        built.push((architecture, build::release(&machine, architecture, &packages)?));
    }
    let source = Source::of(&machine);
    let tag = args.tag.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
    for content in &IMAGES {
        let mut images = Vec::new();
        for (architecture, directory) in &built {
            let materials = build::materials(&machine, *architecture, content.name, content.programs)?;
            let path = output.join(format!("{}-{tag}-{}.cdx.json", content.name, architecture.name()));
            fs::write(&path, &materials).with_context(|| path.display().to_string())?;
            let programs = content
                .programs
                .iter()
                .map(|name| build::program(directory, name, *architecture).map(|program| (*name, program)));
            let layer = layer(content.name, &programs.collect::<Result<Vec<_>>>()?, &materials)?;
            if args.rootfs {
                let path = output.join(format!("{}-{tag}-{}.rootfs.tar", content.name, architecture.name()));
                fs::write(&path, &layer).with_context(|| path.display().to_string())?;
            }
            images.push(Image { architecture: architecture.in_oci(), layer });
        }
        let description = Description {
            reference: format!("{}/{}:{tag}", args.repository, content.name),
            entrypoint: format!("/usr/bin/{}", content.programs[0]),
            user: USER,
            created: source.time.clone(),
            labels: labels(content, &source, tag),
        };
        let archive = oci::archive(&description, &images)?;
        let path = output.join(format!("{}-{tag}.tar", content.name));
        fs::write(&path, &archive).with_context(|| path.display().to_string())?;
        let platforms: Vec<&str> = images.iter().map(|image| image.architecture).collect();
        println!(
            "{}: {}, {} MB, {}",
            path.display(),
            description.reference,
            archive.len() / 1_000_000,
            platforms.join(" and ")
        );
    }
    console::note(&format!("images took {} s", started.elapsed().as_secs()));
    Ok(())
}

/// The architectures that were asked for, or all that can be had.
fn architectures(machine: &Machine, asked: &[Architecture]) -> Result<Vec<Architecture>> {
    let mut found = Vec::new();
    for architecture in if asked.is_empty() { &Architecture::ALL[..] } else { asked } {
        match architecture.missing(machine)? {
            None => found.push(*architecture),
            Some(install) if asked.is_empty() => {
                console::note(&format!("no image for {}: it takes `{install}`", architecture.name()));
            }
            Some(install) => bail!("images for {} need more: {install}", architecture.name()),
        }
    }
    Ok(found)
}

/// The commit that images are made of.
struct Source {
    /// RFC 3339; the epoch outside of a git work tree.
    time: String,
    /// Its hash, with `-dirty` where files differ from it.
    revision: Option<String>,
}

impl Source {
    fn of(machine: &Machine) -> Self {
        let git = |arguments: &[&str]| {
            let mut command = machine.command("git");
            output(command.args(arguments).current_dir(workspace::root()).env("TZ", "UTC"))
                .ok()
                .map(|text| text.trim().to_owned())
        };
        Self {
            time: git(&["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd"])
                .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned()),
            revision: git(&["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]),
        }
    }
}

fn labels(content: &Content, source: &Source, tag: &str) -> BTreeMap<String, String> {
    let mut labels = vec![
        ("title", content.name),
        ("description", content.about),
        ("version", tag),
        ("created", &source.time),
        ("licenses", env!("CARGO_PKG_LICENSE")),
        ("source", env!("CARGO_PKG_REPOSITORY")),
        ("url", env!("CARGO_PKG_REPOSITORY")),
    ];
    labels.extend(source.revision.as_deref().map(|revision| ("revision", revision)));
    labels.iter().map(|(name, value)| (format!("org.opencontainers.image.{name}"), (*value).to_owned())).collect()
}

/// The root file system. Mount points are made by the runtime.
fn layer(name: &str, programs: &[(&str, Vec<u8>)], materials: &str) -> Result<Vec<u8>> {
    let mut root = Archive::default();
    root.directory("etc", 0o755)?;
    root.file("etc/group", 0o644, b"root:x:0:\nweir:x:65532:\n")?;
    root.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n")?;
    root.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/nonexistent\nweir:x:65532:65532:weir:/:/nonexistent\n")?;
    root.directory("run", 0o755)?;
    root.directory("tmp", 0o1777)?;
    root.directory("usr", 0o755)?;
    root.directory("usr/bin", 0o755)?;
    for (name, program) in programs {
        root.file(&format!("usr/bin/{name}"), 0o755, program)?;
    }
    root.directory("usr/share", 0o755)?;
    root.directory("usr/share/doc", 0o755)?;
    root.directory(&format!("usr/share/doc/{name}"), 0o755)?;
    root.file(&format!("usr/share/doc/{name}/copyright"), 0o644, include_bytes!("../../../LICENSE"))?;
    root.directory("usr/share/sbom", 0o755)?;
    root.file(&format!("usr/share/sbom/{name}.cdx.json"), 0o644, materials.as_bytes())?;
    root.directory("var", 0o755)?;
    // Runtimes name network namespaces by /var/run/netns.
    root.symlink("var/run", "../run")?;
    Ok(root.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_root_file_system_holds_the_programs_and_what_they_are_made_of() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer.tar");
        let programs = [("weir-agent", b"program".to_vec()), ("weirctl", b"another".to_vec())];
        fs::write(&path, layer("weir-agent", &programs, "{}").unwrap()).unwrap();
        let listed = output(Command::new("tar").arg("-tf").arg(&path)).unwrap();
        let names: Vec<&str> = listed.lines().collect();
        for expected in [
            "etc/passwd",
            "usr/bin/weir-agent",
            "usr/bin/weirctl",
            "usr/share/doc/weir-agent/copyright",
            "usr/share/sbom/weir-agent.cdx.json",
            "var/run",
        ] {
            assert!(names.contains(&expected), "{expected} in {listed}");
        }
        // Nothing in it can be written by the user that it runs as.
        let modes = output(Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&path)).unwrap();
        assert!(modes.lines().all(|line| line.contains(" 0/0 ")), "{modes}");
    }

    #[test]
    fn labels_name_the_commit_where_there_is_one() {
        let mut source = Source { time: "2026-01-02T03:04:05Z".to_owned(), revision: Some("abc-dirty".to_owned()) };
        let found = labels(&IMAGES[1], &source, "0.1.0");
        assert_eq!(found["org.opencontainers.image.revision"], "abc-dirty");
        assert_eq!(found["org.opencontainers.image.title"], "weir-proxy");
        assert_eq!(found["org.opencontainers.image.licenses"], "Apache-2.0");
        source.revision = None;
        assert!(!labels(&IMAGES[1], &source, "0.1.0").contains_key("org.opencontainers.image.revision"));
    }
}
