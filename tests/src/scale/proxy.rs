//! The proxies that are measured, and a client that asks them.

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::{Course, Who, resources::PROBE};
use crate::ads::Ads;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// A running proxy, ended with this.
pub(super) struct Proxy {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It is ours, and has not been waited for: the id is still its.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts one, with one worker.
    pub(super) fn start(who: &Who, ads: &Ads, course: Course) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("bootstrap.yaml");
        fs::write(&config, bootstrap(ads, course.delta))?;
        let (Who::Weir(program) | Who::Envoy(program)) = who;
        let mut command = on_cpu(course.cpu, program);
        command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "warning", "-c"]).arg(&config);
        let child = command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        Ok(Self { child, _directory: directory })
    }

    /// Time that its threads have spent on a CPU (the first field of schedstat, in nanoseconds).
    pub(super) fn cpu(&self) -> io::Result<Duration> {
        let mut nanoseconds = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            nanoseconds += text.split(' ').next().and_then(|spent| spent.parse::<u64>().ok()).unwrap_or_default();
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    /// Its resident memory, in kilobytes.
    pub(super) fn resident(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).ok_or_else(|| io::Error::other("no VmRSS"))
    }
}

fn on_cpu(cpu: Option<usize>, program: &Path) -> Command {
    let Some(cpu) = cpu else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(program);
    command
}

fn bootstrap(ads: &Ads, delta: bool) -> String {
    let api_type = if delta { "DELTA_GRPC" } else { "GRPC" };
    let port = ads.address().port();
    format!(
        r#"
node: {{ id: node, cluster: scale }}
dynamic_resources:
  ads_config:
    api_type: {api_type}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services: [ {{ envoy_grpc: {{ cluster_name: xds }} }} ]
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{ http2_protocol_options: {{}} }}
    load_assignment:
      cluster_name: xds
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }} ] }} ]
"#
    )
}

/// A client of the route that is probed.
pub(super) struct Client(BufReader<TcpStream>);

impl Client {
    pub(super) fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The letter that answers; `-` for any other status.
    pub(super) fn ask(&mut self) -> io::Result<char> {
        self.0.get_mut().write_all(format!("GET / HTTP/1.1\r\nhost: {PROBE}\r\n\r\n").as_bytes())?;
        let (mut status, mut length) = (String::new(), 0);
        if self.0.read_line(&mut status)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line)?;
            match line.trim().to_ascii_lowercase().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().map_err(io::Error::other)?,
                None => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        let letter = body.first().map_or('-', |byte| char::from(*byte));
        Ok(if status.starts_with("HTTP/1.1 200") { letter } else { '-' })
    }
}
