//! One worker: a thread with its own runtime, that accepts, serves, and does what the control thread tells it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::listen;
use crate::state::{Message, Shared, Worker};

/// Runs a worker on this thread until it has drained.
pub fn run(id: usize, shared: Arc<Shared>, mailbox: mpsc::Receiver<Message>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
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
            Some(Message::Adopt { add, remove }) => {
                worker.refresh();
                for name in remove {
                    if let Some(state) = worker.remove_listener(&name) {
                        let deadline = worker.drain_deadline();
                        tokio::task::spawn_local(async move { state.drain(deadline).await });
                    }
                }
                for (name, socket) in add {
                    accept(&worker, &name, socket);
                }
            }
            Some(Message::Connection(name, stream)) => match worker.listener(&name) {
                Some(state) => listen::adopt(&worker, &state, stream),
                None => drop(stream),
            },
            Some(Message::Drain(deadline)) => {
                drain(&worker, deadline).await;
                return;
            }
            None => return,
        }
    }
}

/// Stops accepting everywhere and waits for what is in flight.
async fn drain(worker: &Rc<Worker>, deadline: Duration) {
    let states: Vec<_> = worker.listener_names().iter().filter_map(|name| worker.remove_listener(name)).collect();
    let tasks: Vec<_> =
        states.into_iter().map(|state| tokio::task::spawn_local(async move { state.drain(deadline).await })).collect();
    for task in tasks {
        let _ = task.await;
    }
    // Aborted connections need a turn to see it and say so in the log.
    tokio::task::yield_now().await;
    worker.close_log();
}

/// Accepts on a new listener.
fn accept(worker: &Rc<Worker>, name: &str, socket: std::net::TcpListener) {
    let Some(state) = worker.add_listener(name) else { return };
    match tokio::net::TcpListener::from_std(socket) {
        Ok(socket) => {
            tokio::task::spawn_local(listen::accept(Rc::clone(worker), state, socket));
        }
        Err(error) => tracing::error!(listener = name, %error, "the listener cannot be served"),
    }
}
