//! Runs as they happen: a moving line each on a terminal, a line per event elsewhere.

use crate::{
    client::{is_work, reason, sentence, steps},
    terminal::{Paint, length},
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use std::time::{Duration, Instant};

/// How often a moving line moves.
const TICK: Duration = Duration::from_millis(120);

/// Width of what a run is doing now.
const NOW_CHARS: usize = 48;

/// One screen.
pub(crate) struct Screen {
    bars: Option<MultiProgress>,
    /// Standard output belongs to the JSON.
    quiet_stdout: bool,
    pub(crate) paint: Paint,
    since: Instant,
}

impl Screen {
    pub(crate) fn new(json: bool) -> Self {
        let paint = if json { Paint::stderr() } else { Paint::stdout() };
        let target = if json { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::stdout() };
        let bars = paint.is_on().then(|| MultiProgress::with_draw_target(target));
        Self { bars, quiet_stdout: json, paint, since: Instant::now() }
    }

    /// A line for good.
    pub(crate) fn say(&self, line: impl AsRef<str>) {
        let line = line.as_ref();
        let print = || if self.quiet_stdout { eprintln!("{line}") } else { say!("{line}") };
        match &self.bars {
            Some(bars) => bars.suspend(print),
            None => print(),
        }
    }

    pub(crate) fn heading(&self, title: &str) {
        self.say(format!("\n{}", self.paint.bold(title)));
    }

    /// `name  what  detail`, lined up.
    pub(crate) fn fact(&self, name: &str, what: &str, detail: &str) {
        let detail = if detail.is_empty() { String::new() } else { format!("  {}", self.paint.dim(detail)) };
        self.say(format!("  {name:18} {what}{detail}"));
    }

    /// Something worth a line of its own, with its time.
    pub(crate) fn event(&self, what: &str) {
        self.say(format!("  {}  {}", self.paint.dim(self.clock()), self.paint.yellow(what)));
    }

    fn clock(&self) -> String {
        format!("{:>6}", length(self.since.elapsed()))
    }

    /// Something that is counted: a bar on a terminal, a line now and then elsewhere.
    pub(crate) fn bar(&self, name: &str, of: u64) -> Bar<'_> {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new(of));
            let style = ProgressStyle::with_template("  {prefix:18} {bar:40.cyan/dim} {pos}/{len}  {per_sec}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(name.to_owned());
            bar
        });
        Bar { screen: self, bar }
    }

    /// A run to look at under a person's name.
    pub(crate) fn track(&self, name: &str) -> Track<'_> {
        let bar = self.bars.as_ref().map(|bars| {
            let bar = bars.add(ProgressBar::new_spinner());
            bar.set_style(
                ProgressStyle::with_template("  {spinner:.cyan} {prefix:22} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(TICK);
            bar
        });
        Track { screen: self, name: name.to_owned(), bar, told: Vec::new(), doing: String::new(), since: Instant::now() }
    }
}

/// A count on the screen.
pub(crate) struct Bar<'a> {
    screen: &'a Screen,
    bar: Option<ProgressBar>,
}

impl Bar<'_> {
    pub(crate) fn at(&self, count: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(count);
        }
    }

    /// A line, where there is no bar.
    pub(crate) fn tell(&self, words: &str) {
        if self.bar.is_none() {
            self.screen.event(words);
        }
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// One run on the screen.
pub(crate) struct Track<'a> {
    screen: &'a Screen,
    name: String,
    bar: Option<ProgressBar>,
    /// What has been told: step name and its state.
    told: Vec<String>,
    doing: String,
    since: Instant,
}

impl Track<'_> {
    /// Show what is new in this state of the run; says whether anything was.
    pub(crate) fn look(&mut self, run: &Value) -> bool {
        let mut moved = false;
        // A waiting step is told by its reason, below.
        for step in steps(run).iter().filter(|step| is_work(step) && step["status"] != "waiting") {
            let field = |name: &str| step[name].as_str().unwrap_or("-");
            let (name, status) = (field("name"), field("status"));
            let attempts = step["attempts"].as_i64().unwrap_or(0);
            let mark = format!("{name} {status} {attempts}");
            if self.told.contains(&mark) {
                continue;
            }
            let error = if step["error"].is_null() { String::new() } else { sentence(&step["error"]) };
            self.tell(status, name, &error);
            self.told.push(mark);
            moved = true;
        }
        let doing = reason(run).unwrap_or_default();
        if doing != self.doing {
            // One that is tried again has been told with its error.
            if !doing.is_empty() && steps(run).last().is_some_and(|step| step["status"] == "waiting") {
                self.tell("waiting", &doing, "");
            }
            self.doing = doing;
            moved = true;
        }
        if let Some(bar) = &self.bar {
            let last = steps(run).last().and_then(|step| step["name"].as_str()).unwrap_or("ordered");
            let now = if self.doing.is_empty() { last } else { &self.doing };
            let paint = self.screen.paint;
            let now: String = now.chars().take(NOW_CHARS).collect();
            let count = steps(run).iter().filter(|step| is_work(step)).count();
            bar.set_message(format!(
                "{now:NOW_CHARS$}  {}",
                paint.dim(format!("{count} steps  {}", length(self.since.elapsed())))
            ));
        }
        moved
    }

    /// Off a terminal every event has its line; on one the moving line says it.
    fn tell(&self, status: &str, what: &str, error: &str) {
        if self.bar.is_some() && error.is_empty() {
            return;
        }
        let paint = self.screen.paint;
        let colour = paint.status(status);
        let pad = " ".repeat(10_usize.saturating_sub(status.chars().count()));
        let line = format!("  {}  {:22} {colour}{pad} {what}", paint.dim(self.screen.clock()), self.name);
        self.screen.say(if error.is_empty() { line } else { format!("{line}: {}", paint.dim(error)) });
    }

    /// The run has ended: the moving line stands still.
    pub(crate) fn end(&self, run: &Value) {
        let status = run["status"].as_str().unwrap_or("-");
        let count = steps(run).iter().filter(|step| is_work(step)).count();
        let words = format!("{}, {count} steps, {}", self.screen.paint.status(status), length(self.since.elapsed()));
        match &self.bar {
            Some(bar) => bar.finish_with_message(words),
            None => self.tell(status, &format!("after {count} steps, {}", length(self.since.elapsed())), ""),
        }
    }
}
