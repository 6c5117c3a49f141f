//! Futures that wait beside a busy one: a limit, or a drain, beside a connection whose task is woken with every packet.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

pin_project_lite::pin_project! {
    /// Polls a future when that has been woken, and not whenever its task is.
    pub(crate) struct Seldom<F> {
        #[pin]
        future: F,
        woken: Arc<Woken>,
        // As in `woken`, to compare without its lock.
        task: Option<Waker>,
    }
}

/// What the future wakes.
#[derive(Debug)]
struct Woken {
    woken: AtomicBool,
    /// Stays there when it is used: a poll between the mark and the use of it must not find itself without one.
    task: Mutex<Waker>,
}

impl Woken {
    fn task(&self) -> std::sync::MutexGuard<'_, Waker> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task().wake_by_ref();
    }
}

impl<F> Seldom<F> {
    /// Polls it a first time with its task.
    pub fn new(future: F) -> Self {
        let woken = Woken { woken: AtomicBool::new(true), task: Mutex::new(Waker::noop().clone()) };
        Self { future, woken: Arc::new(woken), task: None }
    }
}

impl<F: Future> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let known = this.task.as_ref().is_some_and(|task| task.will_wake(cx.waker()));
        if !known {
            this.woken.task().clone_from(cx.waker());
            *this.task = Some(cx.waker().clone());
        }
        // Whoever marks it later wakes the task that is known now.
        if !this.woken.woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(this.woken.clone());
        this.future.poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, pin::pin};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_when_it_is_woken() {
        let (notify, polls) = (Notify::new(), Cell::new(0));
        let mut notified = pin!(notify.notified());
        let counted = std::future::poll_fn(|cx| {
            polls.set(polls.get() + 1);
            notified.as_mut().poll(cx)
        });
        let mut seldom = pin!(Seldom::new(counted));
        for _ in 0..3 {
            assert!(futures_util::poll!(seldom.as_mut()).is_pending());
        }
        assert_eq!(polls.get(), 1);
        notify.notify_one();
        seldom.await;
        assert_eq!(polls.get(), 2);
    }

    #[test]
    fn a_poll_in_the_midst_of_a_wake_misses_none_that_follows() {
        struct Count(std::sync::atomic::AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(Default::default()));
        let task = Waker::from(count.clone());
        let mut seldom = pin!(Seldom::new(std::future::pending::<()>()));
        assert!(seldom.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        let woken = seldom.woken.clone();
        // The two halves of a wake, and a poll between them.
        woken.woken.store(true, Ordering::Release);
        assert!(seldom.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        woken.task().wake_by_ref();
        assert!(seldom.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        let before = count.0.load(Ordering::Relaxed);
        woken.wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), before + 1);
    }

    #[tokio::test]
    async fn it_wakes_the_task_that_polls_it_last() {
        let notify = std::rc::Rc::new(Notify::new());
        let notifier = notify.clone();
        let mut seldom = Box::pin(Seldom::new(async move { notify.notified().await }));
        assert!(seldom.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let tasks = tokio::task::LocalSet::new();
        let waiting = tasks.spawn_local(seldom);
        tasks.spawn_local(async move { notifier.notify_one() });
        tasks.await;
        waiting.await.unwrap();
    }
}
