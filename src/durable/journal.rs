//! What runs write: claim, record, lie down, end; each fenced by the run's `seq`, each kind in its own group commit.

use crate::{
    batch::{Batcher, Write},
    queue::ClaimId,
};
use chrono::{DateTime, Utc};
use domain::Failure;
use sqlx::{Acquire, PgConnection, PgPool, Row, postgres::PgRow};
use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};
use tokio::task::JoinSet;
use uuid::Uuid;

/// `wait_topic` of a run that waits for another run's end; its key is that run's id.
pub(crate) const ENDED: &str = "durable.run";

/// The activation's right to write: void as soon as somebody else claims the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Token {
    pub(crate) run: Uuid,
    pub(crate) seq: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepStatus {
    Running,
    Retrying,
    Waiting,
    Done,
    Failed,
    Abandoned,
}

impl StepStatus {
    fn text(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
        }
    }
    fn read(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "retrying" => Self::Retrying,
            "waiting" => Self::Waiting,
            "done" => Self::Done,
            "failed" => Self::Failed,
            _ => Self::Abandoned,
        }
    }
}

/// A step as recorded; `output` is JSON text.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) position: i32,
    pub(crate) status: StepStatus,
    pub(crate) attempts: i32,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<Failure>,
    pub(crate) started_at: DateTime<Utc>,
    pub(crate) ended_at: Option<DateTime<Utc>>,
}

/// Everything that an activation needs to know.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(crate) token: Token,
    pub(crate) workflow: String,
    pub(crate) input: String,
    pub(crate) status: String,
    pub(crate) error: Option<Failure>,
    pub(crate) cancelled: bool,
    pub(crate) steps: Vec<Step>,
}

/// The journal's hands; cheap to clone.
#[derive(Clone)]
pub(crate) struct Journal {
    pub(crate) claim: Batcher<Claim>,
    pub(crate) record: Batcher<Record>,
    pub(crate) suspend: Batcher<Suspend>,
    pub(crate) end: Batcher<End>,
}

impl Journal {
    pub(crate) fn spawn(db: &PgPool, tasks: &mut JoinSet<()>) -> Self {
        Self {
            claim: Batcher::spawn(db.clone(), tasks),
            record: Batcher::spawn(db.clone(), tasks),
            suspend: Batcher::spawn(db.clone(), tasks),
            end: Batcher::spawn(db.clone(), tasks),
        }
    }
}

// --- claim

pub(crate) struct Claim;

pub(crate) struct ClaimOp {
    pub(crate) run: Uuid,
    /// The activation's row of apalis.jobs.
    pub(crate) claim: ClaimId,
}

impl Write for Claim {
    type Op = ClaimOp;
    /// `None`: the activation is no longer ours, or the run needs none.
    type Answer = Option<Claimed>;

    async fn write(conn: &mut PgConnection, ops: &[ClaimOp]) -> Result<Vec<Option<Claimed>>, Failure> {
        let runs: Vec<Uuid> = ops.iter().map(|op| op.run).collect();
        let (jobs, workers, ats) = ClaimId::columns(ops.iter().map(|op| &op.claim));
        let rows = sqlx::query(
            "with op as (
                 select * from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) with ordinality
                     as op (run_id, job_id, worker, at, i)
             ), mine as (
                 select run.run_id, op.i from durable.run join op using (run_id)
                 join apalis.jobs job on job.id = op.job_id and job.lock_by = op.worker and job.lock_at = op.at
                 where run.awake order by run.run_id for no key update of run
             )
             update durable.run set seq = seq + 1 from mine where run.run_id = mine.run_id
             returning i, run.run_id, run.seq, run.workflow, run.input::text as input, run.status, run.error::text as error,
                 run.cancel_at is not null as cancelled",
        )
        .bind(&runs)
        .bind(jobs)
        .bind(workers)
        .bind(ats)
        .fetch_all(&mut *conn)
        .await?;
        let mut answers: Vec<Option<Claimed>> = ops.iter().map(|_| None).collect();
        // Which of the answers is for a run that may have steps; a first activation has none.
        let mut again = HashMap::new();
        for row in rows {
            let token = Token { run: row.try_get("run_id")?, seq: row.try_get("seq")? };
            let i = usize::try_from(row.try_get::<i64, _>("i")? - 1).unwrap_or_default();
            if token.seq > 1 {
                again.insert(token.run, i);
            }
            answers[i] = Some(Claimed {
                token,
                workflow: row.try_get("workflow")?,
                input: row.try_get("input")?,
                status: row.try_get("status")?,
                error: row.try_get::<Option<String>, _>("error")?.map(failure_of),
                cancelled: row.try_get("cancelled")?,
                steps: Vec::new(),
            });
        }
        if !again.is_empty() {
            let steps = sqlx::query(
                "select run_id, name, position, status, attempts, output::text as output, error::text as error, started_at, ended_at
                 from durable.step where run_id = any($1)",
            )
            .bind(again.keys().copied().collect::<Vec<_>>())
            .fetch_all(&mut *conn)
            .await?;
            for row in steps {
                let Some(one) = again.get(&row.try_get::<Uuid, _>("run_id")?).and_then(|i| answers[*i].as_mut()) else {
                    continue;
                };
                one.steps.push(Step {
                    name: row.try_get("name")?,
                    position: row.try_get("position")?,
                    status: StepStatus::read(row.try_get("status")?),
                    attempts: row.try_get("attempts")?,
                    output: row.try_get("output")?,
                    error: row.try_get::<Option<String>, _>("error")?.map(failure_of),
                    started_at: row.try_get("started_at")?,
                    ended_at: row.try_get("ended_at")?,
                });
            }
        }
        Ok(answers)
    }
}

// --- record

pub(crate) struct Record;

pub(crate) struct RecordOp {
    pub(crate) token: Token,
    pub(crate) step: Step,
}

/// What became of a fenced write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fenced {
    Written,
    /// Written, and the run is asked to undo what it did.
    Cancelled,
    /// The run belongs to somebody else now; nothing was written.
    Lost,
}

impl Write for Record {
    type Op = RecordOp;
    type Answer = Fenced;

    async fn write(conn: &mut PgConnection, ops: &[RecordOp]) -> Result<Vec<Fenced>, Failure> {
        let rows = steps_query(
            "with op as (
                 select * from unnest($1::uuid[], $2::int8[], $3::text[], $4::int4[], $5::text[], $6::int4[], $7::text[],
                     $8::text[], $9::timestamptz[], $10::timestamptz[])
                 as op (run_id, seq, name, position, status, attempts, output, error, started_at, ended_at)
             ), fence as (
                 select run.run_id, run.seq, run.cancel_at is not null as cancelled
                 from durable.run join op on run.run_id = op.run_id and run.seq = op.seq
                 order by run.run_id for no key update of run
             ), done as (
                 insert into durable.step (run_id, name, position, status, attempts, output, error, started_at, ended_at)
                 select run_id, name, position, status, attempts, output::json, error::json, started_at, ended_at
                 from op join fence using (run_id, seq)
                 on conflict (run_id, name) do update set status = excluded.status, attempts = excluded.attempts,
                     output = excluded.output, error = excluded.error, ended_at = excluded.ended_at
             )
             select run_id, seq, cancelled from fence",
            ops.iter().map(|op| (op.token, &op.step)),
        )?
        .fetch_all(conn)
        .await?;
        let fence = passed(&rows)?;
        Ok(ops.iter().map(|op| answer(fence.get(&op.token).copied())).collect())
    }
}

/// The tokens that are still good, and whether their runs are cancelled. By token and not by run: an activation that was
/// overtaken and the one that overtook it may ask in one batch.
fn passed(rows: &[PgRow]) -> Result<HashMap<Token, bool>, Failure> {
    rows.iter().map(|row| Ok((Token { run: row.try_get(0)?, seq: row.try_get(1)? }, row.try_get(2)?))).collect()
}

fn answer(cancelled: Option<bool>) -> Fenced {
    match cancelled {
        Some(false) => Fenced::Written,
        Some(true) => Fenced::Cancelled,
        None => Fenced::Lost,
    }
}

type PgQuery<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds steps as ten arrays, one per column.
fn steps_query<'s>(sql: &'static str, steps: impl Iterator<Item = (Token, &'s Step)>) -> Result<PgQuery<'static>, Failure> {
    let (mut runs, mut seqs, mut names, mut positions) = (vec![], vec![], vec![], vec![]);
    let (mut statuses, mut attempts, mut outputs, mut errors) = (vec![], vec![], vec![], vec![]);
    let (mut started, mut ended) = (vec![], vec![]);
    for (token, step) in steps {
        runs.push(token.run);
        seqs.push(token.seq);
        names.push(step.name.clone());
        positions.push(step.position);
        statuses.push(step.status.text().to_owned());
        attempts.push(step.attempts);
        outputs.push(step.output.clone());
        errors.push(step.error.as_ref().map(json_of).transpose()?);
        started.push(step.started_at);
        ended.push(step.ended_at);
    }
    Ok(sqlx::query(sql)
        .bind(runs)
        .bind(seqs)
        .bind(names)
        .bind(positions)
        .bind(statuses)
        .bind(attempts)
        .bind(outputs)
        .bind(errors)
        .bind(started)
        .bind(ended))
}

pub(crate) fn json_of(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value).map_err(|error| Failure::rejected(format!("not JSON: {error}")))
}

/// As recorded. One that cannot be read is that run's trouble alone: the batch that it came in with must not stop.
pub(crate) fn failure_of(text: String) -> Failure {
    serde_json::from_str(&text).unwrap_or_else(|_| Failure::rejected(text))
}

// --- suspend

pub(crate) struct Suspend;

pub(crate) struct SuspendOp {
    pub(crate) token: Token,
    /// Refuse to lie down if the run has been cancelled; undoing runs do not heed it.
    pub(crate) heed_cancel: bool,
    pub(crate) why: Why,
    /// What `waiting_for` tells people.
    pub(crate) reason: Option<String>,
}

pub(crate) enum Why {
    /// For a signal, or (without a mailbox) for time to pass. The deadline is recorded at the first look.
    Wait { step: Step, mailbox: Option<(String, String)>, patience: Duration },
    /// For another run's end.
    Join { step: Step, child: Uuid },
    /// Until `delay` is over, or for ever (a person wakes it).
    Park { step: Option<Step>, status: &'static str, delay: Option<Duration> },
}

#[derive(Debug)]
pub(crate) enum Suspended {
    /// The run lies down; the activation is over.
    Down,
    /// It need not: the wait's recorded answer, as JSON text.
    Answered(String),
    /// The mailbox or the child is being written to this very moment: ask again.
    Busy,
    Cancelled,
    Lost,
}

/// A run about to lie down.
struct Down<'o> {
    run: Uuid,
    status: &'static str,
    reason: Option<&'o str>,
    wake_at: Option<DateTime<Utc>>,
    delay_us: Option<i64>,
    wait: Option<Waiting<'o>>,
}

/// What a run lies down for: a mailbox, or another run's end.
struct Waiting<'o> {
    topic: &'o str,
    key: String,
    step: &'o str,
}

impl Write for Suspend {
    type Op = SuspendOp;
    type Answer = Suspended;

    async fn write(conn: &mut PgConnection, ops: &[SuspendOp]) -> Result<Vec<Suspended>, Failure> {
        let mut tx = conn.begin().await?;
        let fence = fence(&mut tx, ops.iter().map(|op| op.token)).await?;
        let mut answers: Vec<Option<Suspended>> = ops
            .iter()
            .map(|op| match fence.get(&op.token) {
                None => Some(Suspended::Lost),
                Some(true) if op.heed_cancel => Some(Suspended::Cancelled),
                Some(_) => None,
            })
            .collect();
        let mut down = Vec::new();
        look_for_mail(&mut tx, ops, &mut answers, &mut down).await?;
        look_for_ends(&mut tx, ops, &mut answers, &mut down).await?;
        park(&mut tx, ops, &mut answers, &mut down).await?;
        lie_down(&mut tx, &down).await?;
        tx.commit().await?;
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Suspended::Lost)).collect())
    }
}

/// Locks the runs that still belong to their tokens.
async fn fence(tx: &mut PgConnection, tokens: impl Iterator<Item = Token>) -> Result<HashMap<Token, bool>, Failure> {
    let (runs, seqs): (Vec<Uuid>, Vec<i64>) = tokens.map(|token| (token.run, token.seq)).unzip();
    let rows = sqlx::query(
        "select run.run_id, run.seq, run.cancel_at is not null from durable.run
         join unnest($1::uuid[], $2::int8[]) as op (run_id, seq) on run.run_id = op.run_id and run.seq = op.seq
         order by run.run_id for no key update of run",
    )
    .bind(runs)
    .bind(seqs)
    .fetch_all(tx)
    .await?;
    passed(&rows)
}

/// Signals and sleeps: take the mail or the silence, or record the deadline.
async fn look_for_mail<'o>(
    tx: &mut PgConnection,
    ops: &'o [SuspendOp],
    answers: &mut [Option<Suspended>],
    down: &mut Vec<Down<'o>>,
) -> Result<(), Failure> {
    let mut looking = Vec::new();
    let mut boxes = HashSet::new();
    for (i, op) in ops.iter().enumerate() {
        let (None, Why::Wait { step, mailbox, patience }) = (&answers[i], &op.why) else { continue };
        // Two waiters for one box in one statement would both miss its second letter.
        if let Some(mailbox) = mailbox
            && !boxes.insert(mailbox)
        {
            answers[i] = Some(Suspended::Busy);
            continue;
        }
        looking.push((i, op, step, mailbox.as_ref(), micros(*patience)));
    }
    // Never waits for a lock: a batch that waited could be waited for.
    let (at, (topics, keys)): (Vec<usize>, (Vec<&str>, Vec<&str>)) = looking
        .iter()
        .filter_map(|(i, _, _, mailbox, _)| mailbox.map(|(topic, key)| (*i, (topic.as_str(), key.as_str()))))
        .unzip();
    if !at.is_empty() {
        let locked: Vec<bool> = sqlx::query_scalar(
            "select pg_try_advisory_xact_lock(durable.mailbox_lock(topic, key))
             from unnest($1::text[], $2::text[]) with ordinality as box (topic, key, i) order by i",
        )
        .bind(topics)
        .bind(keys)
        .fetch_all(&mut *tx)
        .await?;
        for (i, _) in at.iter().zip(&locked).filter(|(_, locked)| !**locked) {
            answers[*i] = Some(Suspended::Busy);
        }
        looking.retain(|(i, ..)| answers[*i].is_none());
    }
    if looking.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query(
        "with op as (
             select * from unnest($1::uuid[], $2::text[], $3::int4[], $4::text[], $5::text[], $6::int8[], $7::timestamptz[])
             as op (run_id, name, position, topic, key, patience_us, started_at)
         ), known as (
             select op.*, step.status is not distinct from 'done' as done, step.output as old,
                 coalesce(step.deadline, durable.now() + op.patience_us * interval '1 microsecond') as deadline,
                 case when step.status is distinct from 'done' then (
                     select mail_id from durable.mail where mail.topic = op.topic and mail.key = op.key order by mail_id limit 1
                 ) end as mail_id
             from op left join durable.step using (run_id, name)
         ), taken as (
             delete from durable.mail using known
             where mail.topic = known.topic and mail.key = known.key and mail.mail_id = known.mail_id
             returning mail.mail_id, mail.body
         ), looked as (
             select known.*, known.done or taken.mail_id is not null or deadline <= durable.now() as over,
                 case when known.done then known.old when taken.mail_id is not null then json_build_array(taken.body)
                     else 'null'::json end as answer
             from known left join taken using (mail_id)
         ), written as (
             insert into durable.step (run_id, name, position, status, output, deadline, started_at, ended_at)
             select run_id, name, position, case when over then 'done' else 'waiting' end, case when over then answer end,
                 deadline, started_at, case when over then durable.now() end
             from looked where not done
             on conflict (run_id, name) do update set status = excluded.status, output = excluded.output,
                 ended_at = excluded.ended_at
         )
         select run_id, over, answer::text as answer, deadline from looked",
    )
    .bind(looking.iter().map(|(_, op, ..)| op.token.run).collect::<Vec<_>>())
    .bind(looking.iter().map(|(_, _, step, ..)| step.name.as_str()).collect::<Vec<_>>())
    .bind(looking.iter().map(|(_, _, step, ..)| step.position).collect::<Vec<_>>())
    .bind(looking.iter().map(|(_, _, _, mailbox, _)| mailbox.map(|(topic, _)| topic.as_str())).collect::<Vec<_>>())
    .bind(looking.iter().map(|(_, _, _, mailbox, _)| mailbox.map(|(_, key)| key.as_str())).collect::<Vec<_>>())
    .bind(looking.iter().map(|(.., patience_us)| *patience_us).collect::<Vec<_>>())
    .bind(looking.iter().map(|(_, _, step, ..)| step.started_at).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await?;
    let mut looked = HashMap::with_capacity(rows.len());
    for row in rows {
        looked.insert(row.try_get::<Uuid, _>("run_id")?, row);
    }
    for (i, op, step, mailbox, _) in looking {
        let Some(row) = looked.get(&op.token.run) else { continue };
        if row.try_get("over")? {
            answers[i] = Some(Suspended::Answered(row.try_get("answer")?));
        } else {
            answers[i] = Some(Suspended::Down);
            down.push(Down {
                run: op.token.run,
                status: "waiting",
                reason: op.reason.as_deref(),
                wake_at: row.try_get("deadline")?,
                delay_us: None,
                wait: mailbox.map(|(topic, key)| Waiting { topic, key: key.clone(), step: &step.name }),
            });
        }
    }
    Ok(())
}

/// Children: take the recorded end, or wait for it. A child's row is share-locked so that it cannot end in between.
async fn look_for_ends<'o>(
    tx: &mut PgConnection,
    ops: &'o [SuspendOp],
    answers: &mut [Option<Suspended>],
    down: &mut Vec<Down<'o>>,
) -> Result<(), Failure> {
    let mut joins = Vec::new();
    for (i, op) in ops.iter().enumerate() {
        if let (None, Why::Join { step, child }) = (&answers[i], &op.why) {
            joins.push((i, op, step, *child));
        }
    }
    if joins.is_empty() {
        return Ok(());
    }
    let children: Vec<Uuid> = joins.iter().map(|(.., child)| *child).collect();
    let known: HashSet<Uuid> = sqlx::query_scalar("select run_id from durable.run where run_id = any($1)")
        .bind(&children)
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .collect();
    let rows = sqlx::query(
        "select run_id, status, ended_at is not null as ended, output::text as output, error::text as error from durable.run
         where run_id = any($1) order by run_id for share skip locked",
    )
    .bind(&children)
    .fetch_all(&mut *tx)
    .await?;
    let mut ends = HashMap::new();
    for row in rows {
        ends.insert(row.try_get::<Uuid, _>("run_id")?, row);
    }
    let mut written = Vec::new();
    for (i, op, step, child) in joins {
        let end = match (ends.get(&child), known.contains(&child)) {
            (_, false) => Err(Failure::rejected(format!("there is no run {child}"))),
            (None, true) => {
                answers[i] = Some(Suspended::Busy);
                continue;
            }
            (Some(row), true) if !row.try_get::<bool, _>("ended")? => {
                answers[i] = Some(Suspended::Down);
                down.push(Down {
                    run: op.token.run,
                    status: "waiting",
                    reason: op.reason.as_deref(),
                    wake_at: None,
                    delay_us: None,
                    wait: Some(Waiting { topic: ENDED, key: child.to_string(), step: &step.name }),
                });
                written.push((op.token, Step { status: StepStatus::Waiting, ..step.clone() }));
                continue;
            }
            (Some(row), true) if row.try_get::<String, _>("status")? == "succeeded" => {
                Ok(row.try_get::<Option<String>, _>("output")?.unwrap_or_else(|| "null".into()))
            }
            (Some(row), true) => {
                let status: String = row.try_get("status")?;
                let error = row.try_get::<Option<String>, _>("error")?.map(failure_of);
                Err(error.unwrap_or_else(|| Failure::rejected(format!("the run was {status}")).code(status)))
            }
        };
        let answer = match end {
            Ok(output) => format!(r#"{{"Ok":{output}}}"#),
            Err(failure) => format!(r#"{{"Err":{}}}"#, json_of(&failure)?),
        };
        let done =
            Step { status: StepStatus::Done, output: Some(answer.clone()), ended_at: Some(step.started_at), ..step.clone() };
        written.push((op.token, done));
        answers[i] = Some(Suspended::Answered(answer));
    }
    write_steps(tx, &written).await
}

async fn park<'o>(
    tx: &mut PgConnection,
    ops: &'o [SuspendOp],
    answers: &mut [Option<Suspended>],
    down: &mut Vec<Down<'o>>,
) -> Result<(), Failure> {
    let mut written = Vec::new();
    for (i, op) in ops.iter().enumerate() {
        let (None, Why::Park { step, status, delay }) = (&answers[i], &op.why) else { continue };
        if let Some(step) = step {
            written.push((op.token, step.clone()));
        }
        answers[i] = Some(Suspended::Down);
        down.push(Down {
            run: op.token.run,
            status,
            reason: op.reason.as_deref(),
            wake_at: None,
            delay_us: delay.map(micros),
            wait: None,
        });
    }
    write_steps(tx, &written).await
}

async fn write_steps(tx: &mut PgConnection, steps: &[(Token, Step)]) -> Result<(), Failure> {
    if steps.is_empty() {
        return Ok(());
    }
    steps_query(
        "insert into durable.step (run_id, name, position, status, attempts, output, error, started_at, ended_at)
         select run_id, name, position, status, attempts, output::json, error::json, started_at, ended_at
         from unnest($1::uuid[], $2::int8[], $3::text[], $4::int4[], $5::text[], $6::int4[], $7::text[], $8::text[],
             $9::timestamptz[], $10::timestamptz[])
         as op (run_id, seq, name, position, status, attempts, output, error, started_at, ended_at)
         on conflict (run_id, name) do update set status = excluded.status, attempts = excluded.attempts,
             output = excluded.output, error = excluded.error, ended_at = excluded.ended_at",
        steps.iter().map(|(token, step)| (*token, step)),
    )?
    .execute(tx)
    .await?;
    Ok(())
}

/// The activation ends here: its job goes, the token is void, the timer and the waiting are set.
async fn lie_down(tx: &mut PgConnection, down: &[Down<'_>]) -> Result<(), Failure> {
    if down.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "with op as (
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::int8[], $6::text[], $7::text[], $8::text[])
             as op (run_id, status, reason, wake_at, delay_us, topic, key, step)
         ), down as (
             update durable.run set seq = seq + 1, awake = false, status = op.status, waiting_for = op.reason,
                 wake_at = coalesce(op.wake_at, durable.now() + op.delay_us * interval '1 microsecond'),
                 wait_topic = op.topic, wait_key = op.key, wait_step = op.step
             from op where run.run_id = op.run_id
             returning run.job_id
         )
         delete from apalis.jobs using down where jobs.id = down.job_id",
    )
    .bind(down.iter().map(|one| one.run).collect::<Vec<_>>())
    .bind(down.iter().map(|one| one.status).collect::<Vec<_>>())
    .bind(down.iter().map(|one| one.reason.map(|reason| reason.replace('\0', ""))).collect::<Vec<_>>())
    .bind(down.iter().map(|one| one.wake_at).collect::<Vec<_>>())
    .bind(down.iter().map(|one| one.delay_us).collect::<Vec<_>>())
    .bind(down.iter().map(|one| one.wait.as_ref().map(|wait| wait.topic)).collect::<Vec<_>>())
    .bind(down.iter().map(|one| one.wait.as_ref().map(|wait| wait.key.as_str())).collect::<Vec<_>>())
    .bind(down.iter().map(|one| one.wait.as_ref().map(|wait| wait.step)).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

fn micros(time: Duration) -> i64 {
    // A hundred years: PostgreSQL's timestamps and the arithmetic on them stay far from their ends.
    const LONGEST: i64 = 100 * 365 * 24 * 3600 * 1_000_000;
    i64::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST)
}

// --- unwind and end

pub(crate) struct End;

pub(crate) struct EndOp {
    pub(crate) token: Token,
    /// As in `SuspendOp`.
    pub(crate) heed_cancel: bool,
    /// `succeeded`, `undone` or `cancelled`; or `undoing`, which does not end the run but turns it round.
    pub(crate) status: &'static str,
    pub(crate) output: Option<String>,
    pub(crate) error: Option<Failure>,
}

impl Write for End {
    type Op = EndOp;
    type Answer = Fenced;

    async fn write(conn: &mut PgConnection, ops: &[EndOp]) -> Result<Vec<Fenced>, Failure> {
        let mut tx = conn.begin().await?;
        let fence = fence(&mut tx, ops.iter().map(|op| op.token)).await?;
        let mut answers = Vec::with_capacity(ops.len());
        let (mut ended, mut turned) = (Vec::new(), Vec::new());
        for op in ops {
            answers.push(match fence.get(&op.token) {
                None => Fenced::Lost,
                Some(true) if op.heed_cancel => Fenced::Cancelled,
                Some(_) if op.status == "undoing" => {
                    turned.push(op);
                    Fenced::Written
                }
                Some(_) => {
                    ended.push(op);
                    Fenced::Written
                }
            });
        }
        if !turned.is_empty() {
            turn(&mut tx, &turned).await?;
        }
        if !ended.is_empty() {
            end(&mut tx, &ended).await?;
        }
        tx.commit().await?;
        Ok(answers)
    }
}

async fn turn(tx: &mut PgConnection, ops: &[&EndOp]) -> Result<(), Failure> {
    let errors = ops.iter().map(|op| op.error.as_ref().map(json_of).transpose()).collect::<Result<Vec<_>, _>>()?;
    let runs: Vec<Uuid> = ops.iter().map(|op| op.token.run).collect();
    sqlx::query(
        "update durable.run set status = 'undoing', error = coalesce(run.error, op.error::json), waiting_for = null
         from unnest($1::uuid[], $2::text[]) as op (run_id, error) where run.run_id = op.run_id",
    )
    .bind(&runs)
    .bind(errors)
    .execute(&mut *tx)
    .await?;
    abandon_open_steps(tx, runs).await
}

/// What was waited for or retried is not any more.
async fn abandon_open_steps(tx: &mut PgConnection, runs: Vec<Uuid>) -> Result<(), Failure> {
    sqlx::query(
        "update durable.step set status = 'abandoned', ended_at = durable.now()
         where run_id = any($1) and status in ('running', 'retrying', 'waiting') and name not like 'undo %'",
    )
    .bind(runs)
    .execute(tx)
    .await?;
    Ok(())
}

async fn end(tx: &mut PgConnection, ops: &[&EndOp]) -> Result<(), Failure> {
    let errors = ops.iter().map(|op| op.error.as_ref().map(json_of).transpose()).collect::<Result<Vec<_>, _>>()?;
    let runs: Vec<Uuid> = ops.iter().map(|op| op.token.run).collect();
    sqlx::query(
        "with op as (
             select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as op (run_id, status, output, error)
         ), ended as (
             update durable.run set seq = seq + 1, awake = false, status = op.status, output = op.output::json,
                 error = coalesce(run.error, op.error::json), waiting_for = null, wake_at = null, ended_at = durable.now()
             from op where run.run_id = op.run_id
             returning run.job_id
         )
         delete from apalis.jobs using ended where jobs.id = ended.job_id",
    )
    .bind(&runs)
    .bind(ops.iter().map(|op| op.status).collect::<Vec<_>>())
    .bind(ops.iter().map(|op| op.output.as_deref()).collect::<Vec<_>>())
    .bind(errors)
    .execute(&mut *tx)
    .await?;
    // A new statement, for its snapshot: whoever lay down for one of these ends did so before our update or sees it.
    let keys: Vec<String> = runs.iter().map(Uuid::to_string).collect();
    sqlx::query("select durable.wake(array(select run_id from durable.run where wait_topic = $1 and wait_key = any($2)))")
        .bind(ENDED)
        .bind(keys)
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clock;

    /// A run that was claimed twice, and the tokens of both claims.
    async fn overtaken(db: &PgPool) -> (Token, Token) {
        crate::setup(db).await.expect("a schema");
        let run = Uuid::now_v7();
        sqlx::query("insert into durable.run (run_id, job_id, workflow, input, seq) values ($1, 'job', 'order', '{}', 2)")
            .bind(run)
            .execute(db)
            .await
            .expect("a run");
        (Token { run, seq: 1 }, Token { run, seq: 2 })
    }

    #[sqlx::test(migrations = false)]
    async fn who_was_overtaken_records_nothing_beside_who_overtook_him(db: PgPool) {
        let (stale, good) = overtaken(&db).await;
        let op = |token, name: &str| {
            let (name, started_at) = (name.to_owned(), Clock::default().now());
            let (status, output, error) = (StepStatus::Done, None, None);
            RecordOp { token, step: Step { name, position: 1, status, attempts: 1, output, error, started_at, ended_at: None } }
        };
        let mut conn = db.acquire().await.expect("a connection");
        let answers = Record::write(&mut conn, &[op(stale, "stale"), op(good, "good")]).await.expect("answers");
        assert_eq!(answers, [Fenced::Lost, Fenced::Written]);
        let steps: Vec<String> = sqlx::query_scalar("select name from durable.step").fetch_all(&db).await.expect("steps");
        assert_eq!(steps, ["good"]);
    }

    #[sqlx::test(migrations = false)]
    async fn who_was_overtaken_neither_lies_down_nor_ends_beside_who_overtook_him(db: PgPool) {
        let (stale, good) = overtaken(&db).await;
        let mut conn = db.acquire().await.expect("a connection");
        let park = |token, status| {
            let why = Why::Park { step: None, status, delay: None };
            SuspendOp { token, heed_cancel: true, why, reason: None }
        };
        let answers = Suspend::write(&mut conn, &[park(stale, "stuck"), park(good, "waiting")]).await.expect("answers");
        assert!(matches!(answers[..], [Suspended::Lost, Suspended::Down]), "{answers:?}");
        let end = |token, status| EndOp { token, heed_cancel: true, status, output: None, error: None };
        let next = Token { seq: 3, ..good };
        let answers = End::write(&mut conn, &[end(good, "undone"), end(next, "succeeded")]).await.expect("answers");
        assert_eq!(answers, [Fenced::Lost, Fenced::Written]);
        let status: String = sqlx::query_scalar("select status from durable.run").fetch_one(&db).await.expect("a status");
        assert_eq!(status, "succeeded");
    }
}
