//! Whether a program runs in an image that holds nothing else.

use anyhow::{Context, Result, bail, ensure};

/// `PT_INTERP` of elf(5): the program asks for a dynamic loader.
const INTERPRETER: u32 = 3;
/// Where ELF64 headers have what is looked at (elf(5)).
const MACHINE: usize = 18;
const PROGRAM_HEADERS: usize = 32;
const PROGRAM_HEADER_SIZE: usize = 54;
const PROGRAM_HEADER_COUNT: usize = 56;

/// Fails unless `program` is an ELF64 program for `machine` (`e_machine`) that needs no dynamic loader.
pub fn check_static(program: &[u8], machine: u16) -> Result<()> {
    ensure!(program.starts_with(b"\x7fELF\x02\x01"), "it is no little-endian 64-bit ELF program");
    let half = |at: usize| Some(u16::from_le_bytes(program.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(program.get(at..at + 4)?.try_into().ok()?));
    let long = |at: usize| Some(u64::from_le_bytes(program.get(at..at + 8)?.try_into().ok()?));
    let found = half(MACHINE).context("it is cut off")?;
    ensure!(found == machine, "it is for machine {found} of elf(5), expected {machine}");
    let start = long(PROGRAM_HEADERS).and_then(|start| usize::try_from(start).ok()).context("it is cut off")?;
    let size = usize::from(half(PROGRAM_HEADER_SIZE).context("it is cut off")?);
    let count = usize::from(half(PROGRAM_HEADER_COUNT).context("it is cut off")?);
    for index in 0..count {
        let kind = start.checked_add(index * size).and_then(word).context("its program headers are cut off")?;
        if kind == INTERPRETER {
            bail!("it is linked dynamically (it has a PT_INTERP)");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u16 = 62;

    fn program(kinds: &[u32]) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[MACHINE..MACHINE + 2].copy_from_slice(&X86_64.to_le_bytes());
        bytes[PROGRAM_HEADERS] = 64;
        bytes[PROGRAM_HEADER_SIZE] = 56;
        bytes[PROGRAM_HEADER_COUNT] = kinds.len() as u8;
        for kind in kinds {
            let mut header = [0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            bytes.extend_from_slice(&header);
        }
        bytes
    }

    #[test]
    fn a_program_without_interpreter_is_static() {
        check_static(&program(&[1, 1, 2]), X86_64).unwrap();
    }

    #[test]
    fn what_would_not_run_is_told() {
        let message = |bytes: &[u8], machine| check_static(bytes, machine).unwrap_err().to_string();
        assert_eq!(message(&program(&[1, 3]), X86_64), "it is linked dynamically (it has a PT_INTERP)");
        assert_eq!(message(&program(&[1]), 183), "it is for machine 62 of elf(5), expected 183");
        assert_eq!(message(b"#!/bin/sh", X86_64), "it is no little-endian 64-bit ELF program");
        assert_eq!(message(&program(&[1, 1])[..100], X86_64), "its program headers are cut off");
    }

    #[test]
    fn this_program_is_dynamic() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(check_static(&this, if cfg!(target_arch = "x86_64") { X86_64 } else { 183 }).is_err());
    }
}
