//! Real servers and clients: nginx and curl.

use std::{fs, net::SocketAddr, time::Duration};

use crate::{
    net::Pod,
    poll::wait_for,
    process::{Launch, Process},
};

/// What an nginx server answers by default: what it sees of the connection, one item a line.
pub const WHOAMI: &str = r#"location / { return 200 "client $remote_addr:$remote_port\nserver $server_addr:$server_port\nhost $host\nxff $http_x_forwarded_for\n"; }"#;

/// nginx in a pod.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
}

impl Nginx {
    /// Starts it with one `server` that listens on `port` (both families) and holds `locations`.
    pub fn start(pod: &Pod, port: u16, locations: &str) -> Self {
        let server = format!("server {{ listen {port}; listen [::]:{port}; {locations} }}");
        Self::with(pod, &server, &[port])
    }

    /// Starts it with what goes into `http { }`, and waits until it answers on `ports`.
    pub fn with(pod: &Pod, http: &str, ports: &[u16]) -> Self {
        let directory = pod.directory().join(format!("nginx-{}-{}", pod.name(), ports.first().unwrap_or(&0)));
        for temporary in ["body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            fs::create_dir_all(directory.join(temporary)).expect("a directory of this test");
        }
        // One process without a master: nothing is left behind when it is killed.
        let configuration = format!(
            "daemon off; master_process off; user root; pid {0}/pid; error_log stderr warn; worker_rlimit_nofile 65536;\n\
             events {{ worker_connections 16384; }}\n\
             http {{ access_log off; keepalive_timeout 600; keepalive_requests 1000000; default_type text/plain;\n\
             client_max_body_size 0;\n\
             client_body_temp_path {0}/body; proxy_temp_path {0}/proxy; fastcgi_temp_path {0}/fastcgi;\n\
             uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;\n{http}\n}}\n",
            directory.display()
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, configuration).expect("a file of this test");
        let path = file.display().to_string();
        let mut process = pod.launch("nginx").args(["-p", &directory.display().to_string(), "-c", &path]).start();
        wait_for(&format!("nginx of {} listens on {ports:?}", pod.name()), Duration::from_secs(60), || {
            assert!(process.ended().is_none(), "nginx ended: {}", process.log());
            pod.netns.run(|| {
                ports.iter().try_for_each(|port| {
                    std::net::TcpStream::connect(("127.0.0.1", *port)).map(drop).map_err(|error| error.to_string())
                })
            })
        });
        Self { _process: process }
    }
}

/// An answer that curl got.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status, 0 when there was none.
    pub status: u16,
    /// curl's exit code: 0, 7 (refused), 28 (timed out), 52 (empty answer), 56 (reset).
    pub exit: i32,
    /// Headers and body, as they came.
    pub text: String,
}

impl Answer {
    /// The value of a line of [`WHOAMI`].
    pub fn item(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    }

    /// The address in a line of [`WHOAMI`].
    #[track_caller]
    pub fn address(&self, name: &str) -> SocketAddr {
        let text = self.item(name).unwrap_or_else(|| panic!("no line `{name}` in {self:?}"));
        // nginx writes IPv6 addresses of `$remote_addr` bare.
        let (ip, port) = text.rsplit_once(':').unwrap_or_else(|| panic!("not an address: {text}"));
        let ip = ip.trim_start_matches('[').trim_end_matches(']');
        SocketAddr::new(
            ip.parse().unwrap_or_else(|error| panic!("{text}: {error}")),
            port.parse().unwrap_or_else(|error| panic!("{text}: {error}")),
        )
    }

    /// A header of the answer.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Runs curl with these arguments where `launch` says (make it with `Pod::launch("curl")`).
#[track_caller]
pub fn curl_with(launch: Launch<'_>, arguments: &[&str]) -> Answer {
    let outcome = launch
        .args(["--silent", "--show-error", "--include", "--noproxy", "*", "--max-time", "10"])
        .args(["--write-out", "\n%{http_code}"])
        .args(arguments)
        .output(Duration::from_secs(30));
    let (text, code) = outcome.stdout.rsplit_once('\n').unwrap_or(("", "0"));
    Answer {
        status: code.trim().parse().unwrap_or_default(),
        exit: outcome.status.code().unwrap_or(-1),
        text: format!("{text}{}", outcome.stderr),
    }
}

/// Runs curl in a pod.
#[track_caller]
pub fn curl(pod: &Pod, arguments: &[&str]) -> Answer {
    curl_with(pod.launch("curl"), arguments)
}

/// GETs a URL with curl in a pod and expects 200.
#[track_caller]
pub fn get(pod: &Pod, url: &str) -> Answer {
    let answer = curl(pod, &[url]);
    assert_eq!((answer.status, answer.exit), (200, 0), "curl {url} in {}: {}", pod.name(), answer.text);
    answer
}
