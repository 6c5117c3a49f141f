//! Follows the objects of one kind: lists them, then watches, and never ends.
//!
//! kube's own watcher is not used: told by status code that its version is expired it would ask with the same again, it
//! goes on after an event that it could not read, without that event, and it asks again without a pause when watches end
//! at once. What is wanted here: whatever happens, the state heard last stays until a new list is complete; after a break
//! the watch resumes where it was; every attempt after the first waits, longer each time.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt;
use kube::Client;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    objects::Object,
    requests::{self, Event, Failure, Part, Resource},
};

/// How patient a reflector is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The first pause between attempts; each is twice the one before.
    pub first_pause: Duration,
    /// The longest.
    pub longest_pause: Duration,
    /// How long an answer, or a page of a list, may take.
    pub answer: Duration,
    /// How long the server is asked to let a watch last; up to a quarter is added, lest all nodes come back at once.
    pub watch: Duration,
    /// How much longer a watch may be silent than it should last before its connection counts as dead.
    pub overdue: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_secs(15),
            answer: Duration::from_secs(30),
            watch: Duration::from_secs(240),
            overdue: Duration::from_secs(10),
        }
    }
}

/// A server's own wish to be left alone is heeded up to here.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(60);
/// A watch that lasted so long was a good one even if nothing happened.
const LASTED: Duration = Duration::from_secs(5);

/// What a reflector hears.
#[derive(Debug)]
pub enum Heard<K> {
    /// All objects, in place of those before.
    All(Vec<K>),
    /// An object is there or changed.
    Applied(K),
    /// An object is gone.
    Deleted(K),
    /// The server answers.
    Well,
    /// It does not, or refuses; what was heard stays.
    Failed(Failure),
}

/// Pauses between attempts.
#[derive(Debug)]
struct Pauses {
    timing: Timing,
    next: Duration,
}

impl Pauses {
    fn new(timing: Timing) -> Self {
        Self { timing, next: timing.first_pause }
    }

    fn reset(&mut self) {
        self.next = self.timing.first_pause;
    }

    /// The next pause: half of it certain, half by chance.
    fn take(&mut self, failure: Option<&Failure>) -> Duration {
        let pause = self.next.mul_f64(0.5 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.timing.longest_pause);
        match failure {
            Some(Failure::Refused { retry_after: Some(asked), .. }) => pause.max((*asked).min(LONGEST_RETRY_AFTER)),
            _ => pause,
        }
    }
}

/// Why a watch ended.
enum End {
    /// Nobody listens any more.
    Unheard,
    /// It can be resumed.
    Broken(Option<Failure>),
    /// It cannot: a new list is needed.
    Lost(Failure),
}

/// Whoever listens to a reflector: what it hears, wrapped into a message.
#[derive(Debug)]
pub struct Listener<K, M> {
    pub messages: mpsc::Sender<M>,
    pub message: fn(Heard<K>) -> M,
}

impl<K, M> Listener<K, M> {
    /// Whether anybody still listens.
    async fn tell(&self, heard: Heard<K>) -> bool {
        self.messages.send((self.message)(heard)).await.is_ok()
    }
}

/// Follows objects until nobody listens.
pub async fn reflect<K: Object, M: Send + 'static>(
    client: Client,
    resource: Resource<K>,
    timing: Timing,
    listener: Listener<K, M>,
) {
    let mut pauses = Pauses::new(timing);
    let mut version = String::new();
    let mut newest = Newest::default();
    loop {
        if version.is_empty() {
            match list(&client, &resource, newest.part(&resource), timing).await {
                Ok((items, listed)) => {
                    tracing::debug!(resource = resource.name, objects = items.len(), version = %listed, "listed");
                    version = listed;
                    if !listener.tell(Heard::All(items)).await || !listener.tell(Heard::Well).await {
                        return;
                    }
                }
                Err(failure) => {
                    newest.refused(&failure);
                    let pause = pauses.take(Some(&failure));
                    if !listener.tell(Heard::Failed(failure)).await {
                        return;
                    }
                    sleep(pause).await;
                    continue;
                }
            }
        }
        let started = Instant::now();
        let mut progressed = false;
        let end = watch(&client, &resource, timing, &mut version, &mut progressed, &listener).await;
        if progressed || started.elapsed() >= LASTED {
            pauses.reset();
        }
        let failure = match end {
            End::Unheard => return,
            End::Broken(failure) => failure,
            End::Lost(failure) => {
                newest.keep(std::mem::take(&mut version));
                Some(failure)
            }
        };
        let pause = pauses.take(failure.as_ref());
        match failure {
            Some(failure @ Failure::Expired(_)) => tracing::debug!(resource = resource.name, %failure, "lists again"),
            Some(failure) => {
                if !listener.tell(Heard::Failed(failure)).await {
                    return;
                }
            }
            None => tracing::trace!(resource = resource.name, "watch ended"),
        }
        sleep(pause).await;
    }
}

/// The newest version that was heard, which a list must not be older than.
#[derive(Debug)]
struct Newest(Option<String>);

impl Default for Newest {
    fn default() -> Self {
        // Any will do at first.
        Self(Some("0".to_owned()))
    }
}

impl Newest {
    /// What to ask for. Those chosen by fields are few.
    fn part<K>(&self, resource: &Resource<K>) -> Part<'_> {
        match &self.0 {
            Some(version) if resource.fields.is_some() => Part::Cached(version),
            _ => Part::First,
        }
    }

    fn keep(&mut self, version: String) {
        self.0 = Some(version);
    }

    /// A server whose etcd was put back to an older state never has that version: 504 is "Too large resource version".
    fn refused(&mut self, failure: &Failure) {
        if matches!(failure, Failure::Expired(_) | Failure::Refused { code: 400 | 504, .. }) {
            self.0 = None;
        }
    }
}

/// All pages of a list, and its version.
async fn list<K: Object>(
    client: &Client,
    resource: &Resource<K>,
    first: Part<'_>,
    timing: Timing,
) -> Result<(Vec<K>, String), Failure> {
    let (mut items, mut next) = (Vec::new(), String::new());
    loop {
        let part = if next.is_empty() { first } else { Part::Next(&next) };
        let page = requests::list(client, resource, part, timing.answer).await?;
        items.extend(page.items);
        if page.next.is_empty() {
            if page.version.is_empty() {
                return Err(Failure::Unreadable("a list without a resourceVersion".to_owned()));
            }
            return Ok((items, page.version));
        }
        next = page.next;
    }
}

async fn watch<K: Object, M>(
    client: &Client,
    resource: &Resource<K>,
    timing: Timing,
    version: &mut String,
    progressed: &mut bool,
    listener: &Listener<K, M>,
) -> End {
    let lasts = timing.watch.mul_f64(1.0 + fastrand::f64() / 4.0);
    let seconds = u32::try_from(lasts.as_secs()).unwrap_or(u32::MAX).max(1);
    let stream = match requests::watch(client, resource, version, seconds, timing.answer).await {
        Ok(stream) => stream,
        Err(failure @ Failure::Expired(_)) => return End::Lost(failure),
        Err(failure) => return End::Broken(Some(failure)),
    };
    if !listener.tell(Heard::Well).await {
        return End::Unheard;
    }
    let silence = lasts + timing.overdue;
    let mut stream = pin!(stream);
    loop {
        let event = match timeout(silence, stream.next()).await {
            Ok(Some(Ok(event))) => event,
            Ok(None) => return End::Broken(None),
            // The connection went while there was nothing to say: that is not worth a word if the next one stands.
            Ok(Some(Err(Failure::Unreachable(problem)))) => {
                tracing::debug!(resource = resource.name, problem, "watch broke off");
                return End::Broken(None);
            }
            Ok(Some(Err(failure @ (Failure::Expired(_) | Failure::Unreadable(_))))) => return End::Lost(failure),
            Ok(Some(Err(failure))) => return End::Broken(Some(failure)),
            Err(_) => return End::Broken(Some(Failure::Silent(silence))),
        };
        *progressed = true;
        let heard = match event {
            Event::Bookmark(newest) => {
                *version = newest;
                continue;
            }
            Event::Applied(object) => {
                object.version().clone_into(version);
                Heard::Applied(object)
            }
            Event::Deleted(object) => {
                object.version().clone_into(version);
                Heard::Deleted(object)
            }
        };
        if !listener.tell(heard).await {
            return End::Unheard;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::objects::PodObject, *};

    #[test]
    fn few_objects_are_read_from_the_server_s_copy_unless_that_is_too_old() {
        let few = Resource::<PodObject>::new("/api/v1/pods", "pods").fields("spec.nodeName=a".to_owned());
        let all = Resource::<PodObject>::new("/api/v1/pods", "pods");
        let mut newest = Newest::default();
        assert_eq!((newest.part(&few), newest.part(&all)), (Part::Cached("0"), Part::First));
        newest.keep("7".to_owned());
        newest.refused(&Failure::Silent(Duration::ZERO));
        assert_eq!(newest.part(&few), Part::Cached("7"));
        let message = "Too large resource version: 7, current: 5".to_owned();
        newest.refused(&Failure::Refused { code: 504, message, retry_after: None });
        assert_eq!(newest.part(&few), Part::First);
    }

    #[test]
    fn pauses_grow_to_a_limit_and_heed_the_server() {
        let timing = Timing::default();
        let mut pauses = Pauses::new(timing);
        let mut at_most = timing.first_pause;
        for _ in 0..20 {
            let pause = pauses.take(None);
            assert!(pause <= at_most && pause >= at_most.mul_f64(0.49), "{pause:?} of {at_most:?}");
            at_most = (at_most * 2).min(timing.longest_pause);
        }
        pauses.reset();
        assert!(pauses.take(None) <= timing.first_pause);
        let refused = |seconds| Failure::Refused {
            code: 429,
            message: String::new(),
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(pauses.take(Some(&refused(7))), Duration::from_secs(7));
        assert_eq!(pauses.take(Some(&refused(3600))), LONGEST_RETRY_AFTER);
    }
}
