//! What a proxy tells a client of HTTP/2 first: SETTINGS, and the window of the connection.

use std::collections::BTreeMap;

use tokio::io::AsyncWriteExt;

use super::{
    frame::{ACK, Frame, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, PREFACE, SETTINGS, WINDOW_UPDATE, settings},
    pair::{
        side::Side,
        wire::{Buffered, Wire},
    },
    place::Place,
};

/// The row of docs/envoy-differences.md that is met here.
pub const ROW: &str = "h2-settings";
/// The window of a connection before anybody changes it (RFC 9113 section 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// Further settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
const HEADER_TABLE_SIZE: u16 = 1;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// The settings, and the connection's window.
async fn greeting(side: &Side, listener: &str) -> (BTreeMap<u16, u32>, u32) {
    let tcp = Wire::connect(side.address(listener), None).await.expect("the proxy listens");
    let mut connection = Buffered::new(Wire::Tcp(tcp));
    let hello = [PREFACE.to_vec(), settings(&[])].concat();
    connection.wire.write_all(&hello).await.expect("the proxy reads");
    let (mut told, mut window) = (BTreeMap::new(), FIRST_WINDOW);
    // They come in no particular order.
    while told.is_empty() || window == FIRST_WINDOW {
        let Some((frame, length)) = Frame::parse(&connection.bytes) else {
            assert!(connection.more().await, "{:?} tells {told:?} and {window} only", side.which);
            continue;
        };
        connection.bytes.drain(..length);
        match frame.kind {
            SETTINGS if !frame.has(ACK) => told.extend(frame.payload.chunks_exact(6).map(|setting| {
                let name = u16::from_be_bytes([setting[0], setting[1]]);
                (name, u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]))
            })),
            WINDOW_UPDATE => window += frame.payload.first_chunk().map_or(0, |more| u32::from_be_bytes(*more)),
            _ => {}
        }
    }
    (told, window)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_a_client_is_told() {
    let place = Place::start("http2", |_| {}).await;
    // As configured.
    for side in place.sides() {
        let (told, window) = greeting(side, "two").await;
        let configured = (told.get(&MAX_CONCURRENT_STREAMS), told.get(&INITIAL_WINDOW_SIZE), window);
        assert_eq!(configured, (Some(&2), Some(&70_000), 140_000), "{:?}", side.which);
    }
    // Otherwise.
    let theirs = [
        (HEADER_TABLE_SIZE, 4096),
        (MAX_CONCURRENT_STREAMS, 1024),
        (INITIAL_WINDOW_SIZE, 16 << 20),
        (ENABLE_CONNECT_PROTOCOL, 0),
    ];
    assert_eq!(greeting(&place.envoy, "main").await, (BTreeMap::from(theirs), 24 << 20));
    let ours = [
        (MAX_CONCURRENT_STREAMS, 1024),
        (INITIAL_WINDOW_SIZE, 1 << 20),
        (MAX_FRAME_SIZE, 16 << 10),
        (MAX_HEADER_LIST_SIZE, 60 << 10),
    ];
    assert_eq!(greeting(&place.weir, "main").await, (BTreeMap::from(ours), 16 << 20));
}
