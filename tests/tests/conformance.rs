//! How weir speaks HTTP on the wire, by the specifications and beside real Envoy.
//!
//! | module | what |
//! |---|---|
//! | `http2` | HTTP/2 by raw frames, in the manner of h2spec; `frames`, `messages`, `floods` hold the cases |
//! | `greeting` | the settings that a client is told first |
//! | `downgrade` | what requests that only HTTP/2 can say become for an HTTP/1 upstream |
//! | `bad_server` | HTTP/2 servers that break the rules |
//! | `gone` | clients that go in the midst of a request |
//! | `unread` | clients that ask and do not read |
//! | `programs`, `grpc`, `websocket` | curl, h2load, tonic, tungstenite |
//! | `bodies` | 1 GiB in constant memory, and back-pressure |
//! | `windows` | bodies that are not read to their end, and the windows of HTTP/2 |
//! | `idle` | 10,000 idle connections |
//!
//! HTTP/1 that is ambiguous is in the differential suite (`tests/data/differential/smuggling.yaml`, `responses.yaml`).
//!
//! Each case of raw frames says what the specification demands, which is what weir must do, and Envoy too unless the case
//! names a row of docs/envoy-differences.md. Real Envoy is `envoy` on PATH; without it these tests fail.

#[path = "conformance/bad_server.rs"]
mod bad_server;
#[path = "conformance/bodies.rs"]
mod bodies;
#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/downgrade.rs"]
mod downgrade;
#[path = "conformance/floods.rs"]
mod floods;
#[path = "conformance/frame.rs"]
mod frame;
#[path = "conformance/frames.rs"]
mod frames;
#[path = "conformance/gone.rs"]
mod gone;
#[path = "conformance/greeting.rs"]
mod greeting;
#[path = "conformance/grpc.rs"]
mod grpc;
#[path = "conformance/http2.rs"]
mod http2;
#[path = "conformance/idle.rs"]
mod idle;
#[path = "conformance/messages.rs"]
mod messages;
#[path = "conformance/outcome.rs"]
mod outcome;
#[expect(dead_code, reason = "the differential suite uses all of it")]
#[path = "differential/pair.rs"]
mod pair;
#[path = "conformance/peer.rs"]
mod peer;
#[path = "conformance/place.rs"]
mod place;
#[path = "conformance/programs.rs"]
mod programs;
#[path = "conformance/unread.rs"]
mod unread;
#[path = "conformance/websocket.rs"]
mod websocket;
#[path = "conformance/windows.rs"]
mod windows;
