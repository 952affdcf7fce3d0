//! Table `number_call`: what Meta counts per number, counted by us before each call; failed calls count.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use uuid::Uuid;

/// A call that Meta counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    RequestCode,
    VerifyCode,
    Register,
    Deregister,
}

/// At most `calls` in any `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    pub calls: i64,
    pub window: TimeDelta,
}

/// contracts/meta-cloud-api.md 3.4: not published; these are the safe ones.
const CODE_LIMITS: &[Limit] = &[
    Limit { calls: 1, window: TimeDelta::seconds(60) },
    Limit { calls: 3, window: TimeDelta::hours(1) },
    Limit { calls: 5, window: TimeDelta::hours(24) },
];
/// Wrong guesses lock a number out after an unpublished count: three a request, five requests a day.
const VERIFY_LIMITS: &[Limit] = &[Limit { calls: 15, window: TimeDelta::hours(24) }];
/// contracts/meta-cloud-api.md 3.6: ten in 72 hours, then a lock-out of 72 hours; two are kept in hand.
const REGISTER_LIMITS: &[Limit] = &[Limit { calls: 8, window: TimeDelta::hours(72) }];
/// The database's clock and Meta's are not the same: a call is let go of this much later.
const CLOCK_SKEW: TimeDelta = TimeDelta::seconds(1);

impl Call {
    /// The stored name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequestCode => "request_code",
            Self::VerifyCode => "verify_code",
            Self::Register => "register",
            Self::Deregister => "deregister",
        }
    }

    /// All of them hold at once.
    pub fn limits(self) -> &'static [Limit] {
        match self {
            Self::RequestCode => CODE_LIMITS,
            Self::VerifyCode => VERIFY_LIMITS,
            Self::Register | Self::Deregister => REGISTER_LIMITS,
        }
    }
}

/// What a number's budget says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// The call is counted: make it, then tell its outcome.
    Granted(i64),
    /// Not before this time.
    Until(DateTime<Utc>),
}

/// Counts one call, unless a budget or a lock-out forbids it. Committed on return: the call may follow.
pub async fn spend(db: &PgPool, phone: &str, call: Call, run: Uuid) -> sqlx::Result<Spent> {
    let mut tx = db.begin().await?;
    // One at a time per number and call, or two could see the last free place.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended($1, 0))", format!("number_call:{phone}:{}", call.as_str()))
        .execute(&mut *tx)
        .await?;
    let longest = call.limits().iter().map(|limit| limit.window).max().unwrap_or_default() + CLOCK_SKEW;
    let now = sqlx::query_scalar!(r#"select durable.now() as "now!""#).fetch_one(&mut *tx).await?;
    let called = sqlx::query_scalar!(
        "select called_at from number_call where phone = $1 and call = $2 and called_at > $3 order by called_at desc",
        phone,
        call.as_str(),
        now - longest,
    )
    .fetch_all(&mut *tx)
    .await?;
    let locked = sqlx::query_scalar!("select until from number_lockout where phone = $1 and call = $2", phone, call.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    if let Some(until) = earliest(call.limits(), &called, locked).filter(|until| *until > now) {
        return Ok(Spent::Until(until));
    }
    let id = sqlx::query_scalar!(
        "insert into number_call (phone, call, run_id, called_at) values ($1, $2, $3, $4) returning number_call_id",
        phone,
        call.as_str(),
        run,
        now,
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Spent::Granted(id))
}

/// When the next call is allowed; `called` newest first.
fn earliest(limits: &[Limit], called: &[DateTime<Utc>], locked: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let full = |limit: &Limit| {
        let oldest = usize::try_from(limit.calls - 1).ok().and_then(|place| called.get(place))?;
        Some(*oldest + limit.window + CLOCK_SKEW)
    };
    limits.iter().filter_map(full).chain(locked).max()
}

/// What became of a counted call: `ok`, or the code of the refusal.
pub async fn settle(db: &PgPool, id: i64, outcome: &str) -> sqlx::Result<()> {
    sqlx::query!("update number_call set outcome = $2 where number_call_id = $1", id, outcome).execute(db).await.map(drop)
}

/// No call of this sort for `length` from now on; a longer lock-out stays. Tells its end.
pub async fn lock_out(db: &PgPool, phone: &str, call: Call, length: TimeDelta, code: &str) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar!(
        r#"insert into number_lockout (phone, call, until, code)
           values ($1, $2, durable.now() + make_interval(secs => $3), $4)
           on conflict (phone, call) do update set until = greatest(number_lockout.until, excluded.until), code = excluded.code
           returning until"#,
        phone,
        call.as_str(),
        length.as_seconds_f64(),
        code,
    )
    .fetch_one(db)
    .await
}

/// Calls of a sort ever counted for a number: for the books.
pub async fn count(db: &PgPool, phone: &str, call: Call) -> sqlx::Result<i64> {
    sqlx::query_scalar!(r#"select count(*) as "count!" from number_call where phone = $1 and call = $2"#, phone, call.as_str())
        .fetch_one(db)
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + seconds, 0).expect("in range")
    }

    #[test]
    fn the_tightest_window_decides() {
        let limits = Call::RequestCode.limits();
        assert_eq!(earliest(limits, &[], None), None);
        assert_eq!(earliest(limits, &[at(0)], None), Some(at(61)));
        assert_eq!(earliest(limits, &[at(200), at(100), at(0)], None), Some(at(3601)));
        let day: Vec<_> = [80_000, 70_000, 60_000, 50_000, 40_000].map(at).to_vec();
        assert_eq!(earliest(limits, &day, None), Some(at(40_000 + 86_401)));
    }

    #[test]
    fn a_lock_out_outlasts_a_free_place() {
        assert_eq!(earliest(Call::Register.limits(), &[], Some(at(9))), Some(at(9)));
    }

    #[test]
    fn eight_registrations_and_not_a_ninth() {
        let called: Vec<_> = (0..8).rev().map(at).collect();
        assert_eq!(earliest(Call::Register.limits(), &called, None), Some(at(72 * 3600 + 1)));
        assert_eq!(earliest(Call::Register.limits(), &called[..7], None), None);
    }
}
