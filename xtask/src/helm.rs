//! helm, which renders and checks the chart: the one on PATH, or one built into the cache directory.
//!
//! Nobody packages helm for Debian. Go's module proxy has both a Go toolchain and helm's sources; both are pinned here
//! by the hashes that Go's checksum database has of them, and helm's own go.sum pins everything else.

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::console;
use crate::machine::{Machine, Need, output, run};

const VERSION: &str = "v4.2.4";
/// Proxy of Go modules when the environment names none.
const MODULE_PROXY: &str = "https://proxy.golang.org";

/// A module of Go's.
struct Module {
    path: &'static str,
    version: &'static str,
    /// As go.sum has it.
    hash: &'static str,
}

const HELM: Module =
    Module { path: "helm.sh/helm/v4", version: VERSION, hash: "h1:qIysMI0JpTC4WXf3AQ99V6rZGT0+gO0Ww8IOnnUnaZk=" };
/// The toolchain that helm's go.mod asks for, or newer.
const GO: Module = Module {
    path: "golang.org/toolchain",
    version: "v0.0.1-go1.26.8.linux-amd64",
    hash: "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=",
};

/// Puts a helm that will do on the machine's search path, if there is none.
pub fn provide(machine: &mut Machine) -> Result<()> {
    if let Some(helm) = machine.find("helm")
        && let Ok(version) = output(Command::new(&helm).args(["version", "--template", "{{.Version}}"]))
        && is_usable(&version)
    {
        return Ok(());
    }
    let built = machine.cache.join(format!("helm-{VERSION}"));
    if !built.join("helm").exists() {
        build(machine, &built).context("no helm of version 4, or 3.18 and newer, on PATH, and it cannot be built")?;
    }
    machine.prepend_path(&built)
}

/// Version 4, or 3 since 3.18, which says what is wrong with values in the same words.
fn is_usable(version: &str) -> bool {
    let mut numbers = version.trim_start_matches('v').split('.').map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(4), _) | (Some(3), Some(18..)))
}

/// Builds helm aside and renames the directory when it is whole.
fn build(machine: &Machine, directory: &Path) -> Result<()> {
    ensure!(env::consts::ARCH == "x86_64", "the toolchain is pinned for x86_64 only: install helm");
    machine.install_missing(&[Need::Download])?;
    let work = tempfile::Builder::new()
        .prefix("helm.")
        .tempdir_in(&machine.cache)
        .with_context(|| machine.cache.display().to_string())?;
    console::note(&format!("building helm {VERSION} (once; downloads 300 MB, some minutes)"));
    let go = unpack(machine, &GO, work.path())?;
    prepare_toolchain(&go)?;
    let helm = unpack(machine, &HELM, work.path())?;
    let bin = work.path().join("bin");
    let at = |name: &str| work.path().join(name);
    run(Command::new(go.join("bin/go"))
        .args(["build", "-trimpath", "-ldflags"])
        .arg(format!("-s -w -X helm.sh/helm/v4/internal/version.version={VERSION}"))
        .arg("-o")
        .arg(bin.join("helm"))
        .arg("./cmd/helm")
        .current_dir(&helm)
        .env("GOROOT", &go)
        .env("GOPATH", at("path"))
        .env("GOMODCACHE", at("modules"))
        .env("GOCACHE", at("cache"))
        .env("GOTMPDIR", work.path())
        .env("GOPROXY", env::var("GOPROXY").unwrap_or_else(|_| MODULE_PROXY.to_owned()))
        // go.sum has every hash; nothing is looked up, and nothing of the user's settings counts.
        .env("GOFLAGS", "-mod=readonly -modcacherw")
        .env("GOENV", "off")
        .env("GOWORK", "off")
        .env("GOSUMDB", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0"))?;
    match fs::rename(&bin, directory) {
        // Another run may have been faster: theirs is as good.
        Err(_) if directory.join("helm").exists() => Ok(()),
        renamed => renamed.with_context(|| directory.display().to_string()),
    }
}

/// Downloads a module, proves that it is the pinned one, and gives the directory of its files.
fn unpack(machine: &Machine, module: &Module, work: &Path) -> Result<PathBuf> {
    let named = env::var("GOPROXY").ok();
    let proxy = proxy(named.as_deref());
    let url = format!("{proxy}/{}/@v/{}.zip", module.path, module.version);
    let archive = work.join("module.zip");
    run(machine
        .command("curl")
        .args(["--silent", "--show-error", "--fail", "--location", "--retry", "3", "--connect-timeout", "20"])
        .arg("--output")
        .arg(&archive)
        .arg(&url))
    .with_context(|| format!("{url} cannot be had (GOPROXY names another proxy)"))?;
    let name = format!("{}@{}", module.path, module.version);
    run(machine.command("unzip").arg("-q").arg(&archive).arg("-d").arg(work))?;
    fs::remove_file(&archive)?;
    let directory = work.join(&name);
    let hash = hash(&directory, &name)?;
    ensure!(hash == module.hash, "{url} is not what is pinned: its hash is {hash}, expected {}", module.hash);
    Ok(directory)
}

/// The first proxy that `$GOPROXY` names by its address.
fn proxy(named: Option<&str>) -> &str {
    named
        .unwrap_or_default()
        .split([',', '|'])
        .map(str::trim)
        .find(|entry| entry.contains("://"))
        .unwrap_or(MODULE_PROXY)
        .trim_end_matches('/')
}

/// Go's h1 hash of the files below `directory`, which are called `name/...` in it (golang.org/x/mod/sumdb/dirhash).
fn hash(directory: &Path, name: &str) -> Result<String> {
    let mut files = BTreeMap::new();
    collect(directory, name, &mut files)?;
    let mut summary = Sha256::new();
    for (name, path) in files {
        let content = fs::read(&path).with_context(|| path.display().to_string())?;
        let digest: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        summary.update(format!("{digest}  {name}\n"));
    }
    Ok(format!("h1:{}", BASE64_STANDARD.encode(summary.finalize())))
}

fn collect(directory: &Path, name: &str, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        let name = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &name, files)?;
        } else {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// What the go command does with a toolchain that it fetched itself: a module's archive has no modes, and no go.mod
/// but its own.
fn prepare_toolchain(go: &Path) -> Result<()> {
    for directory in ["bin", "pkg/tool/linux_amd64"] {
        for entry in fs::read_dir(go.join(directory)).with_context(|| go.join(directory).display().to_string())? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    for directory in ["src", "src/cmd"] {
        let directory = go.join(directory);
        fs::copy(directory.join("_go.mod"), directory.join("go.mod"))
            .with_context(|| directory.join("_go.mod").display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_with_an_address_is_taken() {
        assert_eq!(proxy(None), MODULE_PROXY);
        assert_eq!(proxy(Some("off,direct")), MODULE_PROXY);
        assert_eq!(proxy(Some("https://a.example/go/,direct")), "https://a.example/go");
        assert_eq!(proxy(Some("direct|https://b.example")), "https://b.example");
    }

    #[test]
    fn a_directory_s_hash_is_go_s() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("b")).unwrap();
        fs::write(directory.path().join("a"), "first\n").unwrap();
        fs::write(directory.path().join("b/c"), "second\n").unwrap();
        // By `sha256sum` over its own output for m@v/a and m@v/b/c, in base64.
        assert_eq!(hash(directory.path(), "m@v").unwrap(), "h1:66h1Hu+V7DdQVL9g4rJTEdw9JXiFlRx9Gn9DdKMcgz0=");
    }

    #[test]
    fn versions_3_18_and_4_will_do() {
        assert!(is_usable("v3.18.0") && is_usable("v4.2.4") && is_usable("v3.20.1+g1234567"));
        assert!(!is_usable("v3.9.4") && !is_usable("v2.17.0") && !is_usable(""));
    }
}
