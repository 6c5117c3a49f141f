//! Large bodies in constant memory, and back-pressure: whoever does not read stops who writes.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use weir_tests::figure;

use super::{
    peer::{self, Content, Traffic},
    place::{Alone, Memory, listen},
};

/// The size of the large bodies.
const GIBIBYTE: u64 = 1 << 30;
/// What the proxy may need more than before while one passes, in kB.
const GROWTH: u64 = 16 << 10;
/// The size of a body that is stopped, and how much of it is read before.
const STOPPED: u64 = 256 << 20;
const READ_FIRST: u64 = 1 << 20;
/// What may be under way between two who do not read and write: buffers of the proxy and of the kernel's sockets.
const UNDER_WAY: u64 = 64 << 20;
/// A sender that sends nothing for so long has stopped.
const STILL: Duration = Duration::from_millis(700);

/// weir with the servers of both versions.
async fn start(traffic: &Traffic) -> Alone {
    let traffic = traffic.clone();
    Alone::start("bodies", |side| {
        for (name, http2) in [("h1", false), ("h2", true)] {
            tokio::spawn(peer::serve(listen(side, name), http2, traffic.clone()));
        }
    })
    .await
}

async fn transfer(up: bool, to: SocketAddr, http2: bool, size: u64, traffic: &Traffic) -> String {
    if up { peer::upload(to, http2, size, traffic).await } else { peer::download(to, http2, size, traffic).await }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_passes_in_constant_memory() {
    let traffic = Traffic::flowing();
    let place = start(&traffic).await;
    let to = place.weir.address("main");
    let expected = Content::digest(GIBIBYTE);
    for (http2, up) in [(false, true), (false, false), (true, true), (true, false)] {
        let what = format!("{} of 1 GiB over HTTP/{}", if up { "upload" } else { "download" }, 1 + u8::from(http2));
        // What a first request needs is no growth.
        transfer(up, to, http2, 8 << 20, &traffic).await;
        let memory = Memory::settle(&place.weir);
        let started = Instant::now();
        assert_eq!(transfer(up, to, http2, GIBIBYTE, &traffic).await, expected, "{what}: the hash");
        let growth = memory.growth();
        figure!("{what}: {growth} kB more at most, in {:.1} s", started.elapsed().as_secs_f64());
        assert!(growth <= GROWTH, "{what}: the proxy grew by {growth} kB, more than {GROWTH} kB");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_makes_the_writer_stop() {
    let expected = Content::digest(STOPPED);
    for (http2, up) in [(false, true), (false, false), (true, true), (true, false)] {
        let what = format!("{} over HTTP/{}", if up { "upload" } else { "download" }, 1 + u8::from(http2));
        let traffic = Traffic::stopping_after(READ_FIRST);
        let place = start(&traffic).await;
        let to = place.weir.address("main");
        // What a first request needs is no growth.
        transfer(up, to, http2, READ_FIRST / 4, &traffic).await;
        let memory = Memory::settle(&place.weir);
        let running = {
            let traffic = traffic.clone();
            tokio::spawn(async move { transfer(up, to, http2, STOPPED, &traffic).await })
        };
        let sent = stopped(&traffic).await;
        let growth = memory.growth();
        figure!("{what}: stopped after {} kB, the proxy has {growth} kB more", sent >> 10);
        assert!(sent >= READ_FIRST, "{what}: stopped after {sent} bytes already");
        assert!(sent - READ_FIRST <= UNDER_WAY, "{what}: {sent} bytes were sent to a reader that had stopped");
        assert!(growth <= GROWTH, "{what}: the proxy grew by {growth} kB, more than {GROWTH} kB");
        traffic.go();
        assert_eq!(running.await.expect("the transfer ends"), expected, "{what}: the hash");
    }
}

/// Waits until the reader has stopped and nothing more is sent; the bytes sent.
async fn stopped(traffic: &Traffic) -> u64 {
    let (mut sent, mut since) = (0, Instant::now());
    while traffic.received.load(Relaxed) < READ_FIRST || since.elapsed() < STILL {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = traffic.sent.load(Relaxed);
        if now != sent {
            (sent, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < Duration::from_secs(60), "nothing is received: {traffic:?}");
    }
    sent
}
