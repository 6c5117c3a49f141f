//! Started as root, the proxy writes logs and reads configuration that are root's, also after they were replaced.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use weir_tests::{
    mesh::binary,
    poll::wait_for,
    process::{Launch, Process},
};

const PATIENCE: Duration = Duration::from_secs(30);

const BOOTSTRAP: &str = r#"
node: { id: a, cluster: b }
admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }
static_resources:
  listeners:
  - name: main
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: DIRECTORY/access.log
              log_format: { text_format_source: { inline_string: "%REQ(:PATH)%\n" } }
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          ROUTES
"#;
const FIXED: &str = r#"route_config: { virtual_hosts: [{ name: all, domains: ["*"], routes: [{ match: { prefix: / }, direct_response: { status: 200 } }] }] }"#;
const FOLLOWED: &str = r#"rds: { route_config_name: routes, config_source: { path_config_source: { path: "DIRECTORY/routes.yaml" }, resource_api_version: V3 } }"#;

/// A proxy that runs with a directory of root's.
struct Scene {
    directory: tempfile::TempDir,
    admin: PathBuf,
    // Ends before its directory goes.
    _proxy: Process,
    _open: tempfile::TempDir,
}

impl Scene {
    fn start(routes: &str, arguments: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let (directory, open) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("another"));
        assert_eq!(fs::metadata(directory.path()).expect("its owner").uid(), 0, "this test needs root");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("let others read");
        // The proxy writes its address into the other when it has given its rights away.
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o777)).expect("let others write");
        prepare(directory.path());
        let bootstrap = BOOTSTRAP.replace("ROUTES", routes).replace("DIRECTORY", &directory.path().to_string_lossy());
        let admin = open.path().join("admin");
        let proxy = Launch::new(binary("weir-proxy"), open.path())
            .args(["--config-yaml", &bootstrap, "--concurrency", "1", "--file-flush-interval-msec", "20"])
            .args(arguments)
            .arg_path("--admin-address-path", &admin)
            .start();
        let scene = Self { directory, admin, _proxy: proxy, _open: open };
        wait_for("a listener", PATIENCE, || scene.listener().map(drop));
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn listener(&self) -> Result<String, String> {
        let answer = self.ask_admin("GET", "/listeners")?;
        answer.lines().find_map(|line| line.strip_prefix("main::")).map(str::to_owned).ok_or(answer)
    }

    fn ask_admin(&self, method: &str, path: &str) -> Result<String, String> {
        let admin = fs::read_to_string(&self.admin).map_err(|error| error.to_string())?;
        ask(admin.trim(), method, path).map_err(|error| format!("{admin}: {error}"))
    }

    fn get(&self, path: &str) -> Result<String, String> {
        ask(&self.listener()?, "GET", path).map_err(|error| error.to_string())
    }

    /// Waits until a log has a line.
    fn logged(&self, log: &str, line: &str) {
        wait_for(line, PATIENCE, || {
            let text = fs::read_to_string(self.path(log)).map_err(|error| error.to_string())?;
            if text.lines().any(|one| one == line) { Ok(()) } else { Err(text) }
        });
    }

    /// The log is renamed, `then` happens, and the proxy is told; what is asked for next is in the new log.
    fn rotate(&self, then: impl FnOnce(&fs::Metadata)) {
        self.get("/before").expect("an answer");
        self.logged("access.log", "/before");
        fs::rename(self.path("access.log"), self.path("access.log.1")).expect("rename the log");
        then(&fs::metadata(self.path("access.log.1")).expect("its owner"));
        let answer = self.ask_admin("POST", "/reopen_logs").expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        self.get("/after").expect("an answer");
        self.logged("access.log", "/after");
        let before = fs::read_to_string(self.path("access.log.1")).expect("the old log");
        assert!(!before.contains("/after"), "{before}");
    }
}

fn ask(address: &str, method: &str, path: &str) -> std::io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    write!(connection, "{method} {path} HTTP/1.1\r\nhost: any.test\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_log_is_opened_again_where_the_rotation_made_one_for_the_owner_of_the_old() {
    let scene = Scene::start(FIXED, &[], |_| {});
    // As `create` of logrotate does it.
    scene.rotate(|old| {
        assert_ne!(old.uid(), 0);
        fs::write(scene.path("access.log"), "").expect("make a log");
        chown(scene.path("access.log"), Some(old.uid()), Some(old.gid())).expect("give it away");
    });
}

#[test]
fn a_proxy_that_stays_root_makes_logs_anew() {
    let scene = Scene::start(FIXED, &["--user", "0"], |_| {});
    scene.rotate(|old| assert_eq!(old.uid(), 0));
}

#[test]
fn a_proxy_that_stays_root_follows_files_that_only_root_may_read() {
    let routes = |body: &str| {
        format!(
            r#"resources: [{{ "@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: routes, virtual_hosts: [{{ name: all, domains: ["*"], routes: [{{ match: {{ prefix: / }}, direct_response: {{ status: 200, body: {{ inline_string: {body} }} }} }}] }}] }}]"#
        )
    };
    let put = |directory: &Path, body: &str| {
        let new = directory.join("new");
        fs::write(&new, routes(body)).expect("write routes");
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600)).expect("keep others out");
        fs::rename(new, directory.join("routes.yaml")).expect("replace routes");
    };
    let scene = Scene::start(FOLLOWED, &["--user", "0"], |directory| put(directory, "one"));
    let answered = |body: &str| {
        wait_for(body, PATIENCE, || {
            let answer = scene.get("/")?;
            if answer.ends_with(body) { Ok(()) } else { Err(answer) }
        });
    };
    answered("one");
    put(scene.directory.path(), "two");
    answered("two");
}
