//! The load: wrk for HTTP/1, h2load for HTTP/2, and connections that are only held.

use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

use super::configuration::{Client, Row};
use super::process::{LOAD_CPU, on_cpu};
use crate::machine::{Machine, output};

/// Connections of HTTP/1 load.
const HTTP1_CONNECTIONS: usize = 32;
/// Connections of HTTP/2 load, and streams on each.
const HTTP2: (usize, usize) = (4, 16);

/// Puts load on a port; the number of requests that were answered well.
pub fn run(machine: &Machine, row: &Row, port: u16, during: Duration) -> Result<u64> {
    let scheme = if row.tls { "https" } else { "http" };
    let url = format!("{scheme}://127.0.0.1:{port}{}", row.path);
    let seconds = during.as_secs();
    match row.client {
        Client::Http2 => {
            let mut command = on_cpu(machine, LOAD_CPU, "h2load");
            command.args(["-D", &seconds.to_string(), "-c", &HTTP2.0.to_string(), "-m", &HTTP2.1.to_string(), &url]);
            of_h2load(&output(&mut command)?)
        }
        client => {
            let mut command = on_cpu(machine, LOAD_CPU, "wrk");
            command.args(["-t", "1", "-c", &HTTP1_CONNECTIONS.to_string(), "-d", &format!("{seconds}s")]);
            // What a busy machine answers late is answered.
            command.args(["--timeout", "60s"]);
            if client == Client::Http1Close {
                command.args(["-H", "Connection: close"]);
            }
            of_wrk(&output(command.arg(url))?)
        }
    }
}

/// The cipher suite that a client gets which prefers what OpenSSL prefers, as wrk does.
pub fn suite(machine: &Machine, port: u16) -> Result<String> {
    let mut command = machine.command("openssl");
    command.args(["s_client", "-connect", &format!("{}:{port}", Ipv4Addr::LOCALHOST)]).stdin(Stdio::null());
    of_s_client(&output(&mut command)?)
}

/// `New, TLSv1.3, Cipher is TLS_AES_256_GCM_SHA384`.
fn of_s_client(text: &str) -> Result<String> {
    let suite = text.lines().find_map(|line| Some(line.split_once(", Cipher is ")?.1));
    Ok(suite.context("s_client tells no cipher suite")?.to_owned())
}

/// `  24680 requests in 2.00s, 5.1MB read`, and no line of errors.
fn of_wrk(text: &str) -> Result<u64> {
    let bad = text.lines().map(str::trim).find(|line| line.starts_with("Non-2xx") || line.starts_with("Socket errors"));
    ensure!(bad.is_none(), "wrk: {}", bad.unwrap_or_default());
    let line = text.lines().find(|line| line.contains(" requests in ")).context("wrk tells no number of requests")?;
    let count =
        line.split_whitespace().next().and_then(|count| count.parse().ok()).context("wrk's number of requests")?;
    ensure!(count > 0, "wrk: no request was answered");
    Ok(count)
}

/// `requests: 100 total, 100 started, 100 done, 100 succeeded, 0 failed, 0 errored, 0 timeout`.
fn of_h2load(text: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("requests: ")).context("h2load tells no requests")?;
    let number = |what: &str| {
        line.split(", ")
            .find_map(|part| part.strip_suffix(what)?.trim().parse::<u64>().ok())
            .with_context(|| line.to_owned())
    };
    let (succeeded, failed) = (number("succeeded")?, number("failed")?);
    ensure!(failed == 0, "h2load: {line}");
    ensure!(succeeded > 0, "h2load: no request was answered: {line}");
    Ok(succeeded)
}

/// Opens connections and asks once on each.
pub fn hold(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for number in 0..count {
        let mut stream =
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("connection {number}"))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"GET /small HTTP/1.1\r\nhost: bench.test\r\n\r\n")?;
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).with_context(|| format!("answer {number}"))?;
        ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "connection {number}: no answer");
        held.push(stream);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_load_tools_tell_is_read() {
        let wrk = "Running 2s test\n  Thread Stats\n  24680 requests in 2.00s, 5.10MB read\nRequests/sec: 12340\n";
        assert_eq!(of_wrk(wrk).unwrap(), 24680);
        let bad = "  5 requests in 2.00s, 1KB read\n  Non-2xx or 3xx responses: 5\n";
        assert_eq!(of_wrk(bad).unwrap_err().to_string(), "wrk: Non-2xx or 3xx responses: 5");
        let s_client = "---\nNew, TLSv1.3, Cipher is TLS_AES_128_GCM_SHA256\nServer public key is 256 bit\n";
        assert_eq!(of_s_client(s_client).unwrap(), "TLS_AES_128_GCM_SHA256");
        let h2load = "requests: 90 total, 94 started, 90 done, 90 succeeded, 0 failed, 0 errored, 0 timeout\n";
        assert_eq!(of_h2load(h2load).unwrap(), 90);
        assert!(of_h2load(&h2load.replace(" 0 failed", " 7 failed")).is_err());
    }
}
