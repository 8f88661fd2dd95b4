//! What the demo says on the screen: numbered steps, lines within them, and how long each took.

use std::fmt::Display;

use tokio::time::Instant;

/// The narrator of one run.
pub struct Progress {
    began: Instant,
    step_began: Instant,
    step: String,
    number: usize,
    taken: Vec<(String, f64)>,
}

impl Progress {
    /// Begins to tell.
    pub fn begin(title: &str) -> Self {
        println!("{title}");
        let now = Instant::now();
        Self { began: now, step_began: now, step: String::new(), number: 0, taken: Vec::new() }
    }

    /// Ends the step before, begins the next.
    pub fn step(&mut self, name: &str) {
        self.end_step();
        self.number += 1;
        self.step = name.to_owned();
        self.step_began = Instant::now();
        println!("\n{}. {name}", self.number);
    }

    /// A line within the step, with the seconds since the beginning.
    pub fn say(&self, line: impl Display) {
        println!("{:7.1}s  {line}", self.began.elapsed().as_secs_f64());
    }

    /// Text of another program, indented.
    pub fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("            {line}");
        }
    }

    /// The step that is being told, as `3. name`.
    pub fn current(&self) -> String {
        format!("{}. {}", self.number, self.step)
    }

    /// Ends the last step; the seconds of each, for the summary.
    pub fn finish(&mut self) -> &[(String, f64)] {
        self.end_step();
        self.step.clear();
        &self.taken
    }

    fn end_step(&mut self) {
        if !self.step.is_empty() {
            let seconds = self.step_began.elapsed().as_secs_f64();
            self.say(format!("done in {seconds:.1} s"));
            self.taken.push((self.step.clone(), seconds));
        }
    }
}
