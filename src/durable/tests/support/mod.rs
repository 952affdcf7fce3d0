//! A small world for the engine's tests: acts are counted by name, told how to answer, and held at gates.
#![allow(dead_code, reason = "each test file uses its part")]

mod wire;

use domain::Failure;
use durable::{Clock, Engine, Tx, runs::RunView};
use sqlx::PgPool;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
pub(crate) use wire::Wire;

/// Longer than anything takes, on any machine; what it stands against lasts for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// What the acts do and have done.
#[derive(Default)]
pub(crate) struct World {
    done: Mutex<Vec<String>>,
    answers: Mutex<HashMap<String, VecDeque<Failure>>>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

/// An act stops here: the test knows that it has come, and lets it go on.
pub(crate) struct Gate {
    come: Semaphore,
    go: Semaphore,
}

impl Gate {
    pub(crate) async fn reached(&self) {
        self.come.acquire().await.unwrap().forget();
    }
    pub(crate) fn open(&self) {
        self.go.add_permits(1);
    }
}

impl World {
    /// The act itself: count it, stop at its gate, answer as told.
    pub(crate) async fn act(&self, name: &str) -> Result<u32, Failure> {
        let times = {
            let mut done = self.done.lock().unwrap();
            done.push(name.to_owned());
            done.iter().filter(|act| *act == name).count()
        };
        let gate = self.gates.lock().unwrap().get(name).cloned();
        if let Some(gate) = gate {
            gate.come.add_permits(1);
            gate.go.acquire().await.unwrap().forget();
        }
        let failure = self.answers.lock().unwrap().get_mut(name).and_then(VecDeque::pop_front);
        if let Some(failure) = failure {
            assert!(failure.why != "panic", "told to panic");
            return Err(failure);
        }
        Ok(u32::try_from(times).unwrap())
    }
    pub(crate) async fn undo(&self, name: &str) -> Result<(), Failure> {
        self.act(name).await.map(|_| ())
    }
    /// The act's next answer.
    pub(crate) fn fails(&self, name: &str, failure: Failure) {
        self.answers.lock().unwrap().entry(name.to_owned()).or_default().push_back(failure);
    }
    pub(crate) fn fails_times(&self, times: usize, name: &str, failure: &Failure) {
        for _ in 0..times {
            self.fails(name, failure.clone());
        }
    }
    pub(crate) fn gate(&self, name: &str) -> Arc<Gate> {
        let gate = Arc::new(Gate { come: Semaphore::new(0), go: Semaphore::new(0) });
        self.gates.lock().unwrap().insert(name.to_owned(), gate.clone());
        gate
    }
    pub(crate) fn no_gate(&self, name: &str) {
        self.gates.lock().unwrap().remove(name);
    }
    pub(crate) fn times(&self, name: &str) -> usize {
        self.done.lock().unwrap().iter().filter(|act| *act == name).count()
    }
    pub(crate) fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }
}

/// A process in small: dropping it is a crash.
pub(crate) struct Process {
    task: JoinHandle<Result<(), Failure>>,
    stop: CancellationToken,
}

impl Process {
    pub(crate) fn start<T: Send + Sync + 'static>(engine: Engine<T>) -> Self {
        let stop = CancellationToken::new();
        Self { task: tokio::spawn(engine.run(stop.clone())), stop }
    }
    /// As `kill -9`: no farewell.
    pub(crate) async fn crash(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
    /// As SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn prepared(db: &PgPool) -> Clock {
    durable::setup(db).await.unwrap();
    Clock::load(db).await.unwrap()
}

pub(crate) async fn skip(db: &PgPool, clock: &Clock, by: Duration) {
    durable::advance(db, clock, by).await.unwrap();
}

pub(crate) async fn settle(db: &PgPool) {
    durable::settle(db).await.unwrap();
}

pub(crate) async fn get(db: &PgPool, run: Uuid) -> RunView {
    durable::runs::get(db, run, None).await.unwrap().unwrap()
}

/// For what nobody can be asked to settle; a loop that looks and lets the others go on.
pub(crate) async fn until(mut seen: impl AsyncFnMut() -> bool) {
    let looking = async {
        while !seen().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap();
}

/// [`settle`] of what would never end, were it not for what the test shows: `why`.
pub(crate) async fn settle_at_last(db: &PgPool, why: &str) {
    tokio::time::timeout(PATIENCE, settle(db)).await.expect(why);
}

/// `name status attempts` of every step.
pub(crate) async fn steps(db: &PgPool, run: Uuid) -> Vec<String> {
    let run = get(db, run).await;
    run.steps.iter().map(|step| format!("{} {} {}", step.name, step.status, step.attempts)).collect()
}

/// Runs `change` in a transaction of its own.
pub(crate) async fn commit<R>(db: &PgPool, change: impl AsyncFnOnce(&mut Tx<'_>) -> Result<R, Failure>) -> R {
    let mut tx = db.begin().await.unwrap();
    let result = change(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    result
}

/// What a lapsed lease looks like to everybody else: the worker is struck off and its work is free.
pub(crate) async fn lapse_all(db: &PgPool) {
    // The workers first, as the sweep does: a claim that a crashed process left on its way is seen or refused.
    let mut tx = db.begin().await.unwrap();
    for statement in [
        "select from apalis.workers order by id for update",
        "update apalis.jobs set status = 'Pending', lock_by = null, lock_at = null, attempts = attempts + 1 where lock_by is not null",
        "delete from apalis.workers",
    ] {
        sqlx::query(statement).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
}
