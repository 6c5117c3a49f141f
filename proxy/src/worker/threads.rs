//! The worker threads, and what the control thread tells them.

use std::{
    io,
    rc::Rc,
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    runtime::{Builder, LocalOptions, LocalRuntime},
    sync::{mpsc, oneshot, watch},
};

use crate::{
    config::cluster::Cluster,
    memory,
    wire::{
        pipe::{Door, ListeningSocket},
        within,
    },
    worker::{
        accept::{self, Source, Taken},
        state::Worker,
    },
};

/// Commands that may wait for a worker; then the control thread waits.
const COMMANDS: usize = 64;

/// How long memory that connections gave up is held: others may be about to follow them, or to want it.
const HOLD: Duration = Duration::from_millis(250);
/// How long a worker does not look for such memory again: the look holds it up, and where clients come and go there is
/// always some.
const SPARE: Duration = Duration::from_secs(1);

/// Tells a worker something.
enum Command {
    Accept {
        socket: ListeningSocket,
        source: Source,
        stop: watch::Receiver<()>,
        started: oneshot::Sender<io::Result<()>>,
    },
    Forget {
        uid: Arc<str>,
    },
    Unpool {
        cluster: Weak<Cluster>,
    },
    CarryOn {
        taken: Taken,
        done: oneshot::Sender<io::Result<()>>,
    },
    Answer(oneshot::Sender<()>),
}

/// The running workers. They end when this is dropped, with whatever is still open.
#[derive(Debug)]
pub struct Workers {
    commands: Vec<mpsc::Sender<Command>>,
    threads: Vec<JoinHandle<()>>,
}

/// Tells workers something for as long as they run, from any thread.
#[derive(Clone, Debug, Default)]
pub struct Teller(Vec<mpsc::WeakSender<Command>>);

impl Teller {
    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.0.len()
    }

    /// Has worker `index` accept from `socket` until `accepting` stops; returns once it does.
    pub async fn accept(
        &self,
        index: usize,
        socket: ListeningSocket,
        source: Source,
        accepting: &Accepting,
    ) -> io::Result<()> {
        let (started, done) = oneshot::channel();
        let command = Command::Accept { socket, source, stop: accepting.stop.subscribe(), started };
        self.tell(index, command).await?;
        done.await.map_err(|_| gone(index))?
    }

    /// Has every worker let go of the connections of a cluster that is no longer in force, as they become idle.
    pub async fn unpool(&self, cluster: &Weak<Cluster>) {
        for index in 0..self.0.len() {
            // A worker that is gone has let go of all.
            let _ = self.tell(index, Command::Unpool { cluster: cluster.clone() }).await;
        }
    }

    async fn tell(&self, index: usize, command: Command) -> io::Result<()> {
        let commands = self.0.get(index).and_then(mpsc::WeakSender::upgrade).ok_or_else(|| gone(index))?;
        commands.send(command).await.map_err(|_| gone(index))
    }
}

/// Accepting from a set of listening sockets; ends when dropped.
#[derive(Debug)]
pub struct Accepting {
    stop: watch::Sender<()>,
}

impl Accepting {
    /// Nothing yet.
    pub fn none() -> Self {
        Self { stop: watch::Sender::new(()) }
    }

    /// Stops, and returns once every worker has closed its end of the sockets.
    pub async fn stop(self) {
        self.stop.send_replace(());
        self.stop.closed().await;
    }
}

impl Workers {
    /// Starts one thread for each of `workers`, and returns once all are up; each flushes its access log at `flush_interval`.
    pub fn start<F>(workers: impl IntoIterator<Item = F>, flush_interval: Duration) -> io::Result<Self>
    where
        F: FnOnce() -> Worker + Send + 'static,
    {
        let mut running = Self { commands: Vec::new(), threads: Vec::new() };
        for (index, worker) in workers.into_iter().enumerate() {
            let (sender, commands) = mpsc::channel(COMMANDS);
            let (started, up) = std::sync::mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let runtime = match local_runtime() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                drop(started.send(Ok(())));
                runtime.block_on(run(Rc::new(worker()), commands, flush_interval));
            })?;
            up.recv().map_err(io::Error::other)??;
            running.commands.push(sender);
            running.threads.push(thread);
        }
        Ok(running)
    }

    /// What others tell them something by.
    pub fn teller(&self) -> Teller {
        Teller(self.commands.iter().map(mpsc::Sender::downgrade).collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Has worker `index` accept from `socket` until `accepting` stops; returns once it does.
    pub async fn accept(
        &self,
        index: usize,
        socket: ListeningSocket,
        source: Source,
        accepting: &Accepting,
    ) -> io::Result<()> {
        self.teller().accept(index, socket, source, accepting).await
    }

    /// Has worker `index` go on with a connection of another proxy; returns once it does, or why not.
    pub async fn carry_on(&self, index: usize, taken: Taken) -> io::Result<()> {
        let (sender, done) = oneshot::channel();
        self.teller().tell(index, Command::CarryOn { taken, done: sender }).await?;
        done.await.map_err(|_| gone(index))?
    }

    /// Asks every worker to answer; returns once all have come round to it: never while one hangs.
    pub async fn answer(&self) -> io::Result<()> {
        let mut answers = Vec::with_capacity(self.len());
        for (index, commands) in self.commands.iter().enumerate() {
            let (sender, answer) = oneshot::channel();
            commands.send(Command::Answer(sender)).await.map_err(|_| gone(index))?;
            answers.push(answer);
        }
        for (index, answer) in answers.into_iter().enumerate() {
            answer.await.map_err(|_| gone(index))?;
        }
        Ok(())
    }

    /// Has every worker drop what it pooled on behalf of a withdrawn pod.
    pub async fn forget(&self, uid: &Arc<str>) {
        for commands in &self.commands {
            // A worker that is gone has forgotten.
            let _ = commands.send(Command::Forget { uid: uid.clone() }).await;
        }
    }

    /// Ends the workers and waits for their threads.
    pub fn join(self) {
        drop(self.commands);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

fn gone(index: usize) -> io::Error {
    io::Error::other(format!("worker {index} is gone"))
}

/// A runtime for tasks that stay on the thread that makes it. A `LocalSet` would do the same, but wakes its thread by a
/// system call for every event, also when that thread is the one that runs.
pub(crate) fn local_runtime() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// How often access logs are written at most, whatever the command line says.
const SHORTEST_FLUSH: Duration = Duration::from_millis(1);

async fn run(worker: Rc<Worker>, mut commands: mpsc::Receiver<Command>, flush_interval: Duration) {
    let mut flush = tokio::time::interval(flush_interval.max(SHORTEST_FLUSH));
    flush.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tokio::task::spawn_local(give_memory_back(worker.clone()));
    tokio::task::spawn_local(accept::welcome(worker.clone(), within::door()));
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Accept { socket, source, stop, started }) => {
                    let result = Door::of(socket).map(|door| {
                        tokio::task::spawn_local(accept::run(worker.clone(), stop, door, source));
                    });
                    // Whoever asked may have given up.
                    let _ = started.send(result);
                }
                // As above.
                Some(Command::CarryOn { taken, done }) => drop(done.send(accept::carry_on(&worker, taken))),
                Some(Command::Forget { uid }) => worker.pools.forget_pod(&uid),
                Some(Command::Unpool { cluster }) => worker.pools.forget_cluster(&cluster),
                Some(Command::Answer(answer)) => drop(answer.send(())),
                None => return,
            },
            _ = flush.tick() => {
                worker.log.flush();
                // Connections may have ended.
                worker.rested.notify_one();
            }
        }
    }
}

async fn give_memory_back(worker: Rc<Worker>) {
    loop {
        worker.rested.notified().await;
        tokio::time::sleep(HOLD).await;
        memory::give_back();
        tokio::time::sleep(SPARE).await;
    }
}
