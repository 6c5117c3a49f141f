//! Slowing a response's body down.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, Sleep};

/// Into so many pieces a second's bytes are cut, as in Envoy.
const PIECES_PER_SECOND: u64 = 16;

/// Lets so many bytes pass in a second, in pieces.
#[derive(Debug)]
pub struct Throttle {
    piece: usize,
    /// What has come and may not pass yet.
    waiting: Bytes,
    next: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Throttle {
    /// `rate` is in KiB per second.
    pub fn new(rate: u64) -> Self {
        let piece = usize::try_from(rate.saturating_mul(1024) / PIECES_PER_SECOND).unwrap_or(usize::MAX);
        Self { piece: piece.max(1), waiting: Bytes::new(), next: Instant::now(), sleep: None }
    }

    /// Whether something waits to pass.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// More has come; only when nothing waits.
    pub fn offer(&mut self, data: Bytes) {
        self.waiting = data;
    }

    /// The next piece of what waits, when its time has come.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let now = Instant::now();
        if self.next > now {
            let next = self.next;
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if sleep.deadline() != next {
                sleep.as_mut().reset(next);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        self.next = Instant::now() + Duration::from_secs(1) / u32::try_from(PIECES_PER_SECOND).unwrap_or(1);
        let length = self.piece.min(self.waiting.len());
        Poll::Ready(self.waiting.split_to(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_second_s_bytes_take_a_second() {
        let start = Instant::now();
        let mut throttle = Throttle::new(1);
        throttle.offer(Bytes::from_static(&[0; 1024]));
        let mut pieces = 0;
        while throttle.is_waiting() {
            assert_eq!(std::future::poll_fn(|cx| throttle.poll_piece(cx)).await.len(), 64);
            pieces += 1;
        }
        assert_eq!(pieces, 16);
        let elapsed = start.elapsed().as_millis();
        assert!((930..1100).contains(&elapsed), "{elapsed}");
    }
}
