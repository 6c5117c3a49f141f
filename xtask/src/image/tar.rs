//! Archives in the ustar format (POSIX.1-2008, pax, "ustar Interchange Format"), the same bits for the same content:
//! every entry belongs to root and is from 1970.

use anyhow::{Result, ensure};

const BLOCK: usize = 512;
const NAME_LENGTH: usize = 100;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File = b'0' as isize,
    Symlink = b'2' as isize,
    Directory = b'5' as isize,
}

/// An archive in memory.
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds a file.
    pub fn file(&mut self, name: &str, permissions: u32, content: &[u8]) -> Result<()> {
        self.header(name, Kind::File, permissions, content.len(), "")?;
        self.bytes.extend_from_slice(content);
        self.pad(BLOCK);
        Ok(())
    }

    /// Adds a directory; its parent must have been added before.
    pub fn directory(&mut self, name: &str, permissions: u32) -> Result<()> {
        self.header(&format!("{name}/"), Kind::Directory, permissions, 0, "")
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, name: &str, target: &str) -> Result<()> {
        self.header(name, Kind::Symlink, 0o777, 0, target)
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        // Two empty blocks end it.
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn header(&mut self, name: &str, kind: Kind, permissions: u32, size: usize, target: &str) -> Result<()> {
        ensure!(name.len() <= NAME_LENGTH, "{name}: a name in a ustar archive has at most {NAME_LENGTH} bytes");
        ensure!(target.len() <= NAME_LENGTH, "{target}: a link in a ustar archive has at most {NAME_LENGTH} bytes");
        // The size has eleven octal digits.
        ensure!(size < 1 << 33, "{name}: a file in a ustar archive has less than 8 GiB");
        let mut header = [0_u8; BLOCK];
        let mut put = |offset: usize, text: &str| header[offset..offset + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, &format!("{permissions:07o}"));
        put(108, "0000000");
        put(116, "0000000");
        put(124, &format!("{size:011o}"));
        put(136, "00000000000");
        // The checksum counts itself as spaces.
        put(148, "        ");
        put(157, target);
        put(257, "ustar\x0000");
        header[156] = kind as u8;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        Ok(())
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("usr", 0o755).unwrap();
        archive.file("usr/program", 0o755, &[7; 513]).unwrap();
        archive.file("usr/empty", 0o644, b"").unwrap();
        archive.symlink("link", "usr/program").unwrap();
        archive.finish()
    }

    #[test]
    fn tar_reads_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sample.tar");
        std::fs::write(&path, sample()).unwrap();
        let output =
            Command::new("tar").args(["--numeric-owner", "--utc", "-tvf"]).arg(&path).output().expect("tar is there");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 usr/",
                "-rwxr-xr-x 0/0 513 1970-01-01 00:00 usr/program",
                "-rw-r--r-- 0/0 0 1970-01-01 00:00 usr/empty",
                "lrwxrwxrwx 0/0 0 1970-01-01 00:00 link -> usr/program",
            ]
        );
    }

    #[test]
    fn the_same_content_gives_the_same_bits() {
        assert_eq!(sample(), sample());
    }

    #[test]
    fn a_name_that_does_not_fit_is_refused() {
        let error = Archive::default().file(&"x".repeat(101), 0o644, b"").unwrap_err();
        assert!(error.to_string().ends_with("a name in a ustar archive has at most 100 bytes"), "{error}");
    }
}
