//! Debian's kernels: which package has the newest of a series, and its parts in the cache.

use anyhow::{Context, Result, bail, ensure};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::console;
use crate::machine::{self, Machine};

/// A series of kernels that weir is tested on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Series {
    /// Debian 12's own, the oldest that weir supports.
    V6_1,
    /// Debian 13's, in Debian 12's security archive too.
    V6_12,
}

impl Series {
    /// Every series.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The part of a package's name before the number that grows.
    fn prefix(self) -> &'static str {
        match self {
            Self::V6_1 => "linux-image-6.1.0-",
            Self::V6_12 => "linux-image-6.12.",
        }
    }

    /// The number that grows, if `package` is a cloud kernel of this series. Cloud kernels are a tenth of the size of
    /// the others and have what a virtual machine needs built in.
    fn number(self, package: &str) -> Option<u32> {
        let rest = package.strip_prefix(self.prefix())?.strip_suffix("-cloud-amd64")?;
        let number = match self {
            Self::V6_1 => rest,
            Self::V6_12 => rest.split_once("+deb").filter(|(_, release)| release.parse::<u32>().is_ok())?.0,
        };
        number.parse().ok()
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        })
    }
}

impl FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|series| series.to_string() == text).ok_or_else(|| "expected 6.1 or 6.12".to_owned())
    }
}

/// What pods hang on: a bridge (and what it needs), virtual Ethernet pairs. All else is built in.
const MODULES: [&str; 4] = ["net/llc/llc.ko", "net/802/stp.ko", "net/bridge/bridge.ko", "drivers/net/veth.ko"];

/// A kernel in the cache.
#[derive(Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` will say.
    pub release: String,
    /// The boot image.
    pub image: PathBuf,
    /// The modules of [`MODULES`], uncompressed, in the order to load them.
    pub modules: Vec<PathBuf>,
}

/// The newest kernel of the series, downloaded if the cache has not got it.
pub fn kernel(machine: &Machine, series: Series) -> Result<Kernel> {
    ensure!(machine.find("apt-get").is_some(), "kernels come from Debian's archive by apt-get, which is not here");
    let kernels = machine.cache.join("kernels");
    let package = match newest(machine, series)? {
        Some(package) => package,
        None => {
            machine.apt_update()?;
            newest(machine, series)?
                .with_context(|| format!("apt knows no package {}*-cloud-amd64", series.prefix()))?
        }
    };
    if let Some(kernel) = cached(&kernels, &package) {
        return Ok(kernel);
    }
    let package = match fetch(machine, &kernels, &package) {
        Ok(()) => package,
        // The archive keeps only a few versions: a list of yesterday may name one that is gone.
        Err(_) => {
            machine.apt_update()?;
            let package = newest(machine, series)?.unwrap_or(package);
            fetch(machine, &kernels, &package)?;
            package
        }
    };
    cached(&kernels, &package).with_context(|| format!("{package} is incomplete in {}", kernels.display()))
}

fn newest(machine: &Machine, series: Series) -> Result<Option<String>> {
    let names = machine::output(machine.command("apt-cache").args(["pkgnames", series.prefix()]))?;
    Ok(choose(series, &names))
}

fn choose(series: Series, names: &str) -> Option<String> {
    names
        .lines()
        .filter_map(|name| series.number(name).map(|number| (number, name)))
        .max_by_key(|(number, _)| *number)
        .map(|(_, name)| name.to_owned())
}

fn cached(kernels: &Path, package: &str) -> Option<Kernel> {
    let directory = kernels.join(package);
    let kernel = Kernel {
        release: package.strip_prefix("linux-image-")?.to_owned(),
        image: directory.join("vmlinuz"),
        modules: MODULES.iter().map(|module| directory.join(file_name(module))).collect(),
    };
    (kernel.image.is_file() && kernel.modules.iter().all(|module| module.is_file())).then_some(kernel)
}

/// Downloads the package and keeps the few files of it that are used.
fn fetch(machine: &Machine, kernels: &Path, package: &str) -> Result<()> {
    console::note(&format!("apt-get download {package}"));
    fs::create_dir_all(kernels)?;
    let work = tempfile::tempdir_in(kernels)?;
    machine::run(
        machine
            .command("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
            .current_dir(work.path()),
    )?;
    let archive = fs::read_dir(work.path())?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("apt-get download {package} left no .deb"))?;
    let unpacked = work.path().join("unpacked");
    machine::run(machine.command("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;

    let release = package.trim_start_matches("linux-image-");
    let parts = work.path().join("parts");
    fs::create_dir(&parts)?;
    fs::rename(unpacked.join(format!("boot/vmlinuz-{release}")), parts.join("vmlinuz"))
        .with_context(|| format!("{package} holds no boot/vmlinuz-{release}"))?;
    for module in MODULES {
        take_module(machine, &unpacked, release, module, &parts.join(file_name(module)))?;
    }
    let place = kernels.join(package);
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    fs::rename(&parts, &place).context("the kernel's place in the cache")
}

fn take_module(machine: &Machine, unpacked: &Path, release: &str, module: &str, to: &Path) -> Result<()> {
    for modules in ["lib/modules", "usr/lib/modules"] {
        let plain = unpacked.join(modules).join(release).join("kernel").join(module);
        let packed = plain.with_extension("ko.xz");
        if packed.is_file() {
            machine::run(machine.command("xz").arg("-d").arg(&packed))?;
        }
        if plain.is_file() {
            return fs::rename(plain, to).with_context(|| format!("{module} of {release}"));
        }
    }
    bail!("kernel {release} has no module {module}")
}

fn file_name(module: &str) -> &str {
    module.rsplit('/').next().unwrap_or(module)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_cloud_kernel_of_a_series_is_chosen() {
        let names = "linux-image-6.1.0-9-cloud-amd64\nlinux-image-6.1.0-50-cloud-amd64\nlinux-image-6.1.0-50-amd64\n\
                     linux-image-6.12.9+deb12-cloud-amd64\nlinux-image-6.12.111+deb12-cloud-amd64\n\
                     linux-image-6.12.120+deb12-cloud-amd64-unsigned\nlinux-image-6.12.130+deb12-cloud-arm64\n";
        assert_eq!(choose(Series::V6_1, names).unwrap(), "linux-image-6.1.0-50-cloud-amd64");
        assert_eq!(choose(Series::V6_12, names).unwrap(), "linux-image-6.12.111+deb12-cloud-amd64");
        assert_eq!(choose(Series::V6_12, "linux-image-6.12-cloud-amd64\n"), None);
    }

    #[test]
    fn an_unknown_series_is_refused() {
        assert_eq!("5.10".parse::<Series>().unwrap_err(), "expected 6.1 or 6.12");
    }
}
