//! One worker: a thread with its own runtime, that accepts, serves, and does what the control thread tells it.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::drain::Drained;
use crate::listen;
use crate::state::listener::ListenerState;
use crate::state::{Message, Shared, Worker};

/// Runs a worker on this thread until it has drained.
pub fn run(id: usize, shared: Arc<Shared>, mailbox: mpsc::Receiver<Message>) -> std::io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().event_interval(256).enable_all().build_local(Default::default())?;
    runtime.block_on(serve(id, shared, mailbox));
    Ok(())
}

async fn serve(id: usize, shared: Arc<Shared>, mut mailbox: mpsc::Receiver<Message>) {
    let worker = Worker::new(id, shared);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = mailbox.recv() => message,
            _ = tick.tick() => {
                worker.tick();
                continue;
            }
        };
        match message {
            Some(Message::Adopt { add, remove }) => adopt(&worker, &add, &remove),
            Some(Message::Accept(sockets)) => {
                for (name, socket) in
                    sockets.into_iter().flat_map(|(name, all)| all.into_iter().map(move |one| (name.clone(), one)))
                {
                    accept(&worker, &name, socket);
                }
            }
            Some(Message::Connection(name, stream)) => take(&worker, &name, stream),
            // Nobody may be waiting for it any more.
            Some(Message::Report(done)) => drop(done.send(())),
            Some(Message::Goodbye) => worker.say_goodbye(),
            Some(Message::Finish { listeners, limit, done }) => {
                let states: Vec<_> = listeners.iter().filter_map(|name| worker.remove_listener(name)).collect();
                tokio::task::spawn_local(async move {
                    let _ = done.send(drain_all(&states, limit).await);
                });
            }
            Some(Message::Drain(limit, done)) => {
                let drained = drain(&worker, limit, &mut mailbox).await;
                let _ = done.send(drained);
                return;
            }
            None => return,
        }
    }
}

/// Follows a new snapshot: listeners leave and arrive.
fn adopt(worker: &Rc<Worker>, add: &[Box<str>], remove: &[Box<str>]) {
    worker.refresh();
    let deadline = worker.drain_deadline();
    for state in remove.iter().filter_map(|name| worker.remove_listener(name)) {
        tokio::task::spawn_local(async move {
            state.drain(deadline).await;
        });
    }
    for name in add {
        worker.add_listener(name);
    }
    if worker.shared.draining.load(Ordering::Acquire) {
        worker.say_goodbye();
    }
}

/// Accepts on a new listener.
fn accept(worker: &Rc<Worker>, name: &str, socket: std::net::TcpListener) {
    let Some(state) = worker.listener(name) else { return };
    match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => {
            let task = tokio::task::spawn_local(listen::accept(Rc::clone(worker), Rc::clone(&state), socket));
            state.accepted_by(task);
        }
        Err(error) => tracing::error!(listener = name, %error, "the listener cannot be served"),
    }
}

/// Serves a connection that another worker accepted.
fn take(worker: &Rc<Worker>, name: &str, stream: std::net::TcpStream) {
    if let Some(state) = worker.listener_or_leaving(name) {
        listen::adopt(worker, &state, stream);
    }
}

/// So many turns connections have to notice that they were aborted.
const MAX_TURNS: usize = 1000;

/// Stops accepting everywhere and waits for what is in flight, hand-overs under way included.
async fn drain(worker: &Rc<Worker>, deadline: Duration, mailbox: &mut mpsc::Receiver<Message>) -> Drained {
    // Those that were removed earlier first: their connections have the same right to finish.
    let mut states = worker.draining();
    states.extend(worker.listener_names().iter().filter_map(|name| worker.remove_listener(name)));
    let served = |message| {
        if let Message::Connection(name, stream) = message {
            take(worker, &name, stream);
        }
    };
    // Accept loops take what the kernel still holds, and other workers may hand over until they drain too.
    tokio::task::yield_now().await;
    while let Ok(message) = mailbox.try_recv() {
        served(message);
    }
    let mut all = pin!(drain_all(&states, deadline));
    let mut drained = loop {
        tokio::select! {
            drained = &mut all => break drained,
            Some(message) = mailbox.recv() => served(message),
        }
    };
    mailbox.close();
    let mut late = false;
    while let Ok(message) = mailbox.try_recv() {
        late = true;
        served(message);
    }
    if late {
        drained += drain_all(&states, deadline).await;
    }
    // Aborted connections need a turn to see it and say so in the log; many need many.
    for _ in 0..MAX_TURNS {
        tokio::task::yield_now().await;
        if states.iter().all(|state| state.connections.is_empty()) {
            break;
        }
    }
    worker.close_log();
    drained
}

async fn drain_all(states: &[Rc<ListenerState>], deadline: Duration) -> Drained {
    let start = |state: &Rc<ListenerState>| {
        let state = Rc::clone(state);
        tokio::task::spawn_local(async move { state.drain(deadline).await })
    };
    let tasks: Vec<_> = states.iter().map(start).collect();
    let mut drained = Drained::default();
    for task in tasks {
        drained += task.await.unwrap_or_default();
    }
    drained
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
