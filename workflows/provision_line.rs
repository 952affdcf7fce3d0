//! From an order for a line to a number that answers on WhatsApp, or back to nothing.

use crate::SubmitGlobals;
use crate::line::{
    Look, PERSON_PATIENCE,
    ownership::{self, Claim},
    purchase::{self, Bought, Offer, Plan},
    registration::{self, Registered},
    tell_checkout, until,
};
use domain::{Failure, Kind, Language, LineId, Phone, Profile, TenantId, display_name::DisplayName};
use durable::{Flow, Run, Workflow};
use jobs::{LookAgain, NameReviewed, OrderSettled, Tools, capture};
use providers::meta::{self, Added, NameStatus, Sending};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use store::lines;
use uuid::Uuid;

/// Numbers ordered one after the other, if others are always faster.
pub const NUMBERS_TRIED: usize = 5;
/// Searches, if every number found is one that another run of ours is after; and the pause between them.
const SEARCHES: usize = 5;
const SEARCH_PAUSE: Duration = Duration::from_secs(30);
/// How long an order without open requirements may stay pending.
pub const ORDER_PATIENCE: Duration = PERSON_PATIENCE;

/// The row of table `line` says the rest: country, name, profile, callback.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProvisionLine {
    pub line: LineId,
    pub tenant: TenantId,
}

/// What was ordered, as it was when the run began.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Ordered {
    country: String,
    language: Language,
    display_name: String,
    profile: Profile,
}

impl Workflow<Tools> for ProvisionLine {
    const NAME: &'static str = "provision_line";
    /// The number in E.164.
    type Output = String;

    fn key(&self) -> Option<String> {
        Some(self.line.to_string())
    }
    fn scope(&self) -> Option<Uuid> {
        Some(self.tenant.0)
    }

    async fn run<'a>(self, run: &mut Run<'a>, tools: &'a Tools) -> Flow<String> {
        let Self { line, tenant } = self;
        let id = run.id();
        let key = line.to_string();

        run.compensate("end the line", fail(tools, line, id));
        let ordered = run.step("read the order", read(tools, line, tenant, id)).await?;
        let country = ordered.country.as_str();

        // Before any money.
        let plan =
            until::<LookAgain, _, _>(run, tools, line, "preflight", &key, PERSON_PATIENCE, |_| purchase::plan(tools, country))
                .await?;
        until::<LookAgain, _, _>(run, tools, line, "check number cap", &key, PERSON_PATIENCE, |_| room(tools)).await?;
        let offers = run.step("search", purchase::search(tools, id, country, &plan)).await?;
        until::<LookAgain, _, _>(run, tools, line, "check balance", &key, PERSON_PATIENCE, |_| purchase::funds(tools, &offers))
            .await?;

        run.compensate("give the number back", purchase::undo(tools, id));
        let phone = buy(run, tools, line, country, &plan, &offers).await?;
        let number = until::<LookAgain, _, _>(run, tools, line, "find number", &key, PERSON_PATIENCE, |_| {
            purchase::number(tools, id, &phone)
        })
        .await?;
        run.step("note number", purchase::note(tools, line, id, &phone, &number.id)).await?;
        run.step("set connection", purchase::set_connection(tools, &number.id, id)).await?;
        run.step("set voice", tools.telnyx.patch_voice(&number.id)).await?;
        let sms = run.step("set messaging", purchase::set_messaging(tools, &number.id)).await?;

        run.compensate("leave the account", leave(tools, phone.clone()));
        let number_id = link(run, tools, line, &key, &phone, &ordered.display_name).await?;

        run.compensate("stop listening", capture::close(tools, id));
        let locale = ordered.language.meta_locale();
        let claim = Claim { line, phone: &phone, number_id: &number_id, language: locale, sms };
        ownership::prove(run, tools, claim).await?;
        run.step("stop listening", capture::close(tools, id)).await?;
        run.step("note verified", moved(tools, line, "linked", "verified")).await?;

        run.step("make pin", registration::make_pin(tools, line)).await?;
        run.compensate("deregister", deregister(tools, id, phone.clone(), number_id.clone()));
        register(run, tools, claim, None).await?;
        run.step("note registered", moved(tools, line, "verified", "registered")).await?;

        let picture = run.step("upload logo", upload_logo(tools, line)).await?;
        run.step("set profile", set_profile(tools, &number_id, &ordered.profile, picture)).await?;
        settle_name(run, tools, claim, &ordered.display_name).await?;
        run.step("subscribe", subscribe(tools)).await?;
        until::<LookAgain, _, _>(run, tools, line, "check health", &key, PERSON_PATIENCE, |_| health(tools, line, &number_id))
            .await?;

        run.step("go live", go_live(tools, line, self.tenant)).await?;
        Ok(phone)
    }
}

async fn read(tools: &Tools, line: LineId, tenant: TenantId, run: Uuid) -> Result<Ordered, Failure> {
    let row = lines::get(&tools.db, tenant, line).await?;
    let row = row.ok_or_else(|| Failure::rejected("there is no such line").code("no_line"))?;
    if row.status != "ordered" || !lines::begun(&tools.db, line, run).await? {
        return Err(Failure::rejected("the line is not waiting to be built").code("not_ordered"));
    }
    let profile =
        serde_json::from_value(row.profile).map_err(|error| Failure::rejected(format!("the profile cannot be read: {error}")))?;
    let language = Language::parse(&row.language)?;
    Ok(Ordered { country: row.country, language, display_name: row.display_name, profile })
}

/// Whether the account may hold one more number, as far as Meta has told its cap.
async fn room(tools: &Tools) -> Result<Look<()>, Failure> {
    let Some(cap) = lines::number_cap(&tools.db, tools.meta.waba_id()).await? else { return Ok(Look::Ready(())) };
    let held = tools.meta.numbers().await?.len();
    if usize::try_from(cap).is_ok_and(|cap| held >= cap) {
        return Ok(Look::NotYet(format!("Meta allows {cap} numbers and all are taken: raise the cap or delete one")));
    }
    Ok(Look::Ready(()))
}

/// One number after another until one is ours.
async fn buy(run: &mut Run<'_>, tools: &Tools, line: LineId, country: &str, plan: &Plan, first: &[Offer]) -> Flow<String> {
    let id = run.id();
    let mut tried = 0;
    let mut offers = first.to_vec();
    for search in 1..=SEARCHES {
        for offer in &offers {
            if !run.step("intend", purchase::intend(tools, id, line, offer)).await? {
                continue;
            }
            match run.step("order", purchase::buy(tools, id, offer, plan)).await? {
                Bought::Ordered { order_id } => {
                    let reference = purchase::reference(id);
                    until::<OrderSettled, _, _>(run, tools, line, "check order", &reference, ORDER_PATIENCE, |_| {
                        purchase::order_state(tools, id, offer, &order_id, country, plan)
                    })
                    .await?;
                    return Ok(offer.phone.clone());
                }
                Bought::Owned => return Ok(offer.phone.clone()),
                Bought::Taken => tried += 1,
            }
            if tried == NUMBERS_TRIED {
                return run.fail(Failure::rejected("every number was sold to somebody else before our order").code("all_taken"));
            }
        }
        if search < SEARCHES {
            run.sleep("let other runs buy", SEARCH_PAUSE).await?;
            offers = run.step("search", purchase::search(tools, id, country, plan)).await?;
        }
    }
    run.fail(Failure::rejected("other lines are after every number that is for sale").code("all_taken"))
}

/// Added to our account at Meta, or found there. A full account is waited for, a number in use elsewhere is not.
async fn link(run: &mut Run<'_>, tools: &Tools, line: LineId, key: &str, phone: &str, name: &str) -> Flow<String> {
    let number_id = until::<LookAgain, _, _>(run, tools, line, "link", key, PERSON_PATIENCE, |_| add(tools, phone, name)).await?;
    run.step("note linked", async {
        let mut tx = tools.db.begin().await?;
        lines::linked(&mut tx, line, &number_id, tools.meta.waba_id(), tools.meta.business_id()).await?;
        tx.commit().await
    })
    .await?;
    Ok(number_id)
}

async fn add(tools: &Tools, phone: &str, name: &str) -> Result<Look<String>, Failure> {
    let phone = Phone::parse(phone)?;
    let (code, national) = phone
        .split()
        .ok_or_else(|| Failure::rejected("the number belongs to no country that we serve").code("unknown_country"))?;
    match tools.meta.add_or_adopt(code, national, name).await? {
        Added::Number(id) => Ok(Look::Ready(id)),
        Added::CapReached => {
            Ok(Look::NotYet("Meta lets the account have no more numbers: raise the cap or delete one".to_owned()))
        }
        Added::OnWhatsApp => Err(Failure::rejected(format!("{phone} is already on WhatsApp elsewhere")).code("on_whatsapp")),
    }
}

/// Registered and connected; a used-up budget is waited for. `name`: a new one, which counts once registered.
async fn register(run: &mut Run<'_>, tools: &Tools, claim: Claim<'_>, name: Option<&str>) -> Flow<()> {
    let Claim { line, phone, number_id, .. } = claim;
    let id = run.id();
    loop {
        match run.step("register", registration::register(tools, id, line, phone, number_id, name)).await? {
            Registered::Yes => break,
            Registered::VerifyFirst => {
                ownership::prove(run, tools, claim).await?;
                run.step("stop listening", capture::close(tools, id)).await?;
            }
            Registered::Later { until, why } => {
                run.step("note wait", lines::waits(&tools.db, line, Some(&why))).await?;
                let now = run.now().await?;
                run.sleep("registration budget", (until - now).to_std().unwrap_or_default()).await?;
                run.step("note wait", lines::waits(&tools.db, line, None)).await?;
            }
        }
    }
    run.step("check connection", registration::connected(tools, line, number_id)).await
}

async fn upload_logo(tools: &Tools, line: LineId) -> Result<Option<String>, Failure> {
    let Some((picture, mime)) = lines::logo(&tools.db, line).await? else { return Ok(None) };
    let name = if mime == "image/png" { "logo.png" } else { "logo.jpg" };
    match tools.meta.upload(name, &mime, picture.into()).await {
        Ok(handle) => Ok(Some(handle)),
        // A line without a picture is better than none: the profile can be set again.
        Err(failure) if failure.kind == Kind::Rejected => {
            tracing::warn!(line.id = %line, "Meta refused the logo: {failure}");
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

async fn set_profile(tools: &Tools, number_id: &str, profile: &Profile, picture: Option<String>) -> Result<(), Failure> {
    let unreadable = |error| Failure::rejected(format!("the profile cannot be written: {error}"));
    let fields = serde_json::to_value(profile).map_err(unreadable)?;
    let mut profile: meta::Profile = serde_json::from_value(fields).map_err(unreadable)?;
    profile.profile_picture_handle = picture;
    if profile == meta::Profile::default() {
        return Ok(());
    }
    tools.meta.set_profile(number_id, &profile).await
}

/// How the review of a display name stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Name {
    /// Approved as it is.
    Good,
    /// A new name is approved and must be registered.
    Register(String),
}

/// The name approved. A declined one waits for a person, who answers with another or settles it with Meta.
async fn settle_name(run: &mut Run<'_>, tools: &Tools, claim: Claim<'_>, wanted: &str) -> Flow<()> {
    let Claim { line, phone, number_id, .. } = claim;
    let look = |news: Option<NameReviewed>| review(tools, line, number_id, wanted, news);
    match until::<NameReviewed, _, _>(run, tools, line, "check name", phone, PERSON_PATIENCE, look).await? {
        Name::Good => Ok(()),
        Name::Register(name) => {
            register(run, tools, claim, Some(&name)).await?;
            run.step("note name", async {
                let seen = lines::Seen { name_status: Some("APPROVED"), display_name: Some(&name), ..lines::Seen::default() };
                lines::seen(&tools.db, line, &seen).await
            })
            .await
        }
    }
}

async fn review(
    tools: &Tools,
    line: LineId,
    number_id: &str,
    wanted: &str,
    news: Option<NameReviewed>,
) -> Result<Look<Name>, Failure> {
    let number = tools.meta.number(number_id).await?;
    lines::seen(&tools.db, line, &registration::seen(&number)).await?;
    // A person proposes another name. Asking twice for the same one is not asked.
    let proposed = news.as_ref().and_then(|news| news.display_name.as_deref());
    // A number that was adopted may carry the name of its last line.
    let other =
        number.verified_name.as_deref().filter(|name| *name != wanted && number.new_display_name.is_none()).map(|_| wanted);
    if let Some(name) = proposed.or(other)
        && number.new_display_name.as_deref() != Some(name)
        && number.verified_name.as_deref() != Some(name)
    {
        // A slip of the person's must not cost the line: it is told, and the run waits on.
        let asked = match DisplayName::parse(name) {
            Ok(name) => tools.meta.request_display_name(number_id, name.as_str()).await,
            Err(invalid) => Err(invalid.into()),
        };
        return match asked {
            Ok(()) => Ok(Look::NotYet(format!("Meta reviews the name {name}"))),
            Err(failure) if failure.kind == Kind::Rejected => {
                Ok(Look::NotYet(format!("the name {name} cannot be asked for ({}): propose another", failure.why)))
            }
            Err(failure) => Err(failure),
        };
    }
    if let Some(new) = &number.new_display_name {
        return Ok(match &number.new_name_status {
            status if status.is_usable() => Look::Ready(Name::Register(new.clone())),
            NameStatus::Declined => Look::NotYet(declined(new, news.as_ref())),
            _ => Look::NotYet(format!("Meta reviews the name {new}")),
        });
    }
    Ok(match &number.name_status {
        status if status.is_usable() => Look::Ready(Name::Good),
        NameStatus::Declined | NameStatus::Expired | NameStatus::None => Look::NotYet(declined(wanted, news.as_ref())),
        _ => Look::NotYet(format!("Meta reviews the name {wanted}")),
    })
}

fn declined(name: &str, news: Option<&NameReviewed>) -> String {
    match news.and_then(|news| news.reason.as_deref()) {
        Some(reason) => format!("Meta declined the name {name} ({reason}): propose another"),
        None => format!("Meta declined the name {name}: propose another"),
    }
}

/// Our app hears the account. An override that somebody set would be cleared by asking again, so it is only asked for if missing.
async fn subscribe(tools: &Tools) -> Result<(), Failure> {
    let apps = tools.meta.subscribed_apps().await?;
    if apps.iter().any(|app| app.id == tools.meta.app_id()) {
        return Ok(());
    }
    tools.meta.subscribe(None).await
}

/// The readiness gate (contracts/meta-cloud-api.md 3.3, 13).
async fn health(tools: &Tools, line: LineId, number_id: &str) -> Result<Look<()>, Failure> {
    let number = tools.meta.number(number_id).await?;
    lines::seen(&tools.db, line, &registration::seen(&number)).await?;
    let health = tools.meta.health(number_id).await?;
    Ok(match health.can_send_message {
        Sending::Blocked => Look::NotYet(format!("Meta lets the number send nothing: {}", health.trouble().unwrap_or_default())),
        _ if !number.is_connected() => Look::NotYet(format!("the number is {} at Meta", number.status)),
        _ => Look::Ready(()),
    })
}

async fn moved(tools: &Tools, line: LineId, from: &str, to: &str) -> Result<(), Failure> {
    let mut tx = tools.db.begin().await?;
    lines::move_to(&mut tx, line, &[from], to, None).await?;
    Ok(tx.commit().await?)
}

/// Live, routed and told: messages to and from the number go to its tenant from this commit on.
async fn go_live(tools: &Tools, line: LineId, tenant: TenantId) -> Result<(), Failure> {
    let mut tx = tools.db.begin().await?;
    if lines::move_to(&mut tx, line, &["registered"], "live", None).await? {
        tell_checkout(&mut tx, tools, line).await?;
        // A run of its own: whatever becomes of the templates, the line stays live.
        durable::start(&mut tx, &SubmitGlobals { tenant, line }).await?;
    }
    Ok(tx.commit().await?)
}

/// The last undo: everything else is undone, the line has failed, and the checkout hears why.
async fn fail(tools: &Tools, line: LineId, run: Uuid) -> Result<(), Failure> {
    let view = durable::runs::get(&tools.db, run, None).await?;
    let why = view.and_then(|view| view.error).map_or_else(|| "cancelled".to_owned(), |error| error.why);
    let mut tx = tools.db.begin().await?;
    let from = ["ordered", "bought", "linked", "verified", "registered"];
    if lines::move_to(&mut tx, line, &from, "failed", Some(&why)).await? {
        tell_checkout(&mut tx, tools, line).await?;
    }
    Ok(tx.commit().await?)
}

/// Meta's numbers cannot be deleted by API: one that stays behind is listed for a person, and adopted should we buy it again.
pub(crate) async fn leave(tools: &Tools, phone: String) -> Result<(), Failure> {
    let Some(number) = tools.meta.find_number(&phone).await? else { return Ok(()) };
    let why = "left in the account at Meta; only a person can delete it there";
    Ok(lines::note_orphan(&tools.db, "meta", &number.id, &phone, None, why).await?)
}

async fn deregister(tools: &Tools, run: Uuid, phone: String, number_id: String) -> Result<(), Failure> {
    registration::deregister(tools, run, &phone, &number_id).await
}
