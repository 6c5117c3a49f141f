//! Certificates of the TLS rows: P-256, an authority and one certificate that serves as server's and as client's.

use anyhow::Result;
use std::path::Path;

use crate::machine::{Machine, run};

/// Makes `ca.pem`, `cert.pem`, `key.pem`, and `both.pem`, which holds certificate and key.
pub fn make(machine: &Machine, directory: &Path) -> Result<()> {
    let file = |name: &str| directory.join(name).display().to_string();
    let new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    run(machine
        .command("openssl")
        .args(["req", "-x509", "-days", "30", "-subj", "/CN=bench CA"])
        .args(new_key)
        .args(["-keyout", &file("ca.key"), "-out", &file("ca.pem")]))?;
    run(machine.command("openssl").args(["req", "-subj", "/CN=bench.test"]).args(new_key).args([
        "-keyout",
        &file("key.pem"),
        "-out",
        &file("request.pem"),
    ]))?;
    std::fs::write(directory.join("names"), "subjectAltName=DNS:bench.test,IP:127.0.0.1\n")?;
    run(machine.command("openssl").args(["x509", "-req", "-days", "30", "-CAcreateserial"]).args([
        "-in",
        &file("request.pem"),
        "-CA",
        &file("ca.pem"),
        "-CAkey",
        &file("ca.key"),
        "-extfile",
        &file("names"),
        "-out",
        &file("cert.pem"),
    ]))?;
    let both =
        std::fs::read_to_string(directory.join("cert.pem"))? + &std::fs::read_to_string(directory.join("key.pem"))?;
    std::fs::write(directory.join("both.pem"), both)?;
    Ok(())
}
