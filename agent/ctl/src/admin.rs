//! Asks a proxy's admin server.

use std::{path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    answer::Answer,
    proxy::{self, What},
    question::Question,
    show::rows::Rows,
    xds,
};

/// Where a proxy's admin server is if nothing says so: where Istio's tools look for it, too.
pub const DEFAULT: &str = "127.0.0.1:15000";
/// The longest answer, bytes.
const LONGEST: usize = 1 << 30;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none to connect to.
    #[error("proxy's admin server {place}: {error}")]
    Unreachable {
        /// Where.
        place: String,
        /// Why.
        error: std::io::Error,
    },
    /// It has no answer, or not that one.
    #[error("proxy's admin server {place}: {why}")]
    Answer {
        /// Where.
        place: String,
        /// Why.
        why: String,
    },
}

/// Where an admin server is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Tcp(String),
    Pipe(PathBuf),
}

/// A proxy's admin server.
pub struct Admin {
    place: Place,
    written: String,
    timeout: Duration,
}

impl Admin {
    /// The one at an address, or at the path of a unix socket, which may take so long for an answer.
    pub fn at(place: &str, timeout: Duration) -> Self {
        let path = place.strip_prefix("unix:").or(Some(place).filter(|place| place.starts_with(['/', '.'])));
        let parsed = path.map_or_else(
            || Place::Tcp(place.trim_start_matches("http://").trim_end_matches('/').to_owned()),
            |path| Place::Pipe(path.into()),
        );
        Self { place: parsed, written: place.to_owned(), timeout }
    }

    /// Answers a question that is not the agent's.
    pub async fn answer(&self, question: &Question) -> Result<Answer, Error> {
        match question {
            Question::Proxy { asked, .. } => {
                let mut dump = None;
                let mut all = Vec::new();
                for what in &asked.what {
                    all.push((*what, Rows::here(self.resources(*what, asked, &mut dump).await?)));
                }
                Ok(Answer::Proxy(all))
            }
            _ => Ok(Answer::Xds(Rows::here(xds::rows(&self.json(xds::PATH).await?)))),
        }
    }

    async fn resources(&self, what: What, asked: &proxy::Asked, dump: &mut Option<Value>) -> Result<Vec<Value>, Error> {
        if what == What::Log {
            let level = asked.level.as_deref();
            let query = level.map_or_else(String::new, |level| match level.contains(':') {
                true => format!("?paths={level}"),
                false => format!("?level={level}"),
            });
            return Ok(proxy::loggers(&self.text(Method::POST, &format!("/logging{query}")).await?));
        }
        let dump = match dump {
            Some(dump) => dump,
            None => {
                let view = asked.view.as_ref().map(|view| format!("&view={view}")).unwrap_or_default();
                dump.insert(self.json(&format!("/config_dump?include_eds{view}")).await?)
            }
        };
        Ok(proxy::resources(what, dump, &asked.filter))
    }

    async fn json(&self, path: &str) -> Result<Value, Error> {
        let text = self.text(Method::GET, path).await?;
        serde_json::from_str(&text).map_err(|error| self.wrong(format!("{path}: its answer is no JSON: {error}")))
    }

    fn wrong(&self, why: String) -> Error {
        Error::Answer { place: self.written.clone(), why }
    }

    async fn text(&self, method: Method, path: &str) -> Result<String, Error> {
        let asked = async {
            let unreachable = |error| Error::Unreachable { place: self.written.clone(), error };
            match &self.place {
                Place::Tcp(address) => {
                    self.ask(TcpStream::connect(address).await.map_err(unreachable)?, method, path).await
                }
                Place::Pipe(path_of) => {
                    self.ask(UnixStream::connect(path_of).await.map_err(unreachable)?, method, path).await
                }
            }
        };
        let late = || self.wrong(format!("no answer within {}", humantime::format_duration(self.timeout)));
        tokio::time::timeout(self.timeout, asked).await.map_err(|_| late())?
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        method: Method,
        path: &str,
    ) -> Result<String, Error> {
        let broken = |error: hyper::Error| self.wrong(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the answer.
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(header::HOST, "admin");
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| self.wrong(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| self.wrong(format!("{path}: {error}")))?.to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        let first = text.lines().next().unwrap_or_default();
        Err(self.wrong(format!("{path}: {status}: {first}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_an_address_or_a_path() {
        let place = |text: &str| Admin::at(text, Duration::ZERO).place;
        assert_eq!(place("127.0.0.1:9901"), Place::Tcp("127.0.0.1:9901".into()));
        assert_eq!(place("http://localhost:15000/"), Place::Tcp("localhost:15000".into()));
        assert_eq!(place("/run/admin.sock"), Place::Pipe("/run/admin.sock".into()));
        assert_eq!(place("unix:admin.sock"), Place::Pipe("admin.sock".into()));
        assert_eq!(place("./admin"), Place::Pipe("./admin".into()));
    }
}
