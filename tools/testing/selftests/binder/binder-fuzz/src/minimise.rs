// SPDX-License-Identifier: GPL-2.0

//! Removes steps from a program while the mismatch remains.

use crate::program::Action;
use crate::program::Cmd;
use crate::program::Load;
use crate::program::Place;
use crate::program::Program;
use crate::program::Talk;

/// Leaves out of a program whatever can be left out while `holds` is true of the rest.
pub fn minimise(program: Program, mut holds: impl FnMut(&Program) -> bool) -> Program {
    let mut best = program;
    loop {
        let before = best.clone();
        drop_steps(&mut best, &mut holds);
        drop_parts(&mut best, &mut holds);
        if best == before {
            return best;
        }
    }
}

/// Steps go in runs, long ones first.
fn drop_steps(best: &mut Program, holds: &mut impl FnMut(&Program) -> bool) {
    let mut run = best.steps.len().div_ceil(2);
    while run > 0 {
        let mut end = best.steps.len();
        while end > 0 {
            let start = end.saturating_sub(run);
            let mut shorter = best.clone();
            shorter.steps.drain(start..end);
            if holds(&shorter) {
                *best = shorter;
            }
            end = start;
        }
        run /= 2;
    }
}

/// Then single commands, objects, and what is unusual about them.
fn drop_parts(best: &mut Program, holds: &mut impl FnMut(&Program) -> bool) {
    let mut step = 0;
    while step < best.steps.len() {
        let mut command = 0;
        while command < talk(best, step).map_or(0, |talk| talk.commands.len()) {
            let shorter = changed(best, step, |talk| drop(talk.commands.remove(command)));
            if holds(&shorter) {
                *best = shorter;
                continue;
            }
            for simpler in simpler_loads(talk(best, step).and_then(|talk| load(&talk.commands[command]))) {
                let shorter = changed(best, step, |talk| put_load(&mut talk.commands[command], simpler.clone()));
                if holds(&shorter) {
                    *best = shorter;
                    break;
                }
            }
            command += 1;
        }
        let simpler: [fn(&mut Talk); 3] = [|talk| talk.cut = 0, |talk| talk.place = Place::Usual, |talk| talk.room = 0];
        for simpler in simpler {
            let shorter = changed(best, step, simpler);
            if shorter != *best && holds(&shorter) {
                *best = shorter;
            }
        }
        step += 1;
    }
}

fn talk(program: &Program, step: usize) -> Option<&Talk> {
    match &program.steps[step].action {
        Action::Talk(talk) => Some(talk),
        _ => None,
    }
}

fn changed(program: &Program, step: usize, change: impl FnOnce(&mut Talk)) -> Program {
    let mut program = program.clone();
    if let Action::Talk(talk) = &mut program.steps[step].action {
        change(talk);
    }
    program
}

fn load(command: &Cmd) -> Option<&Load> {
    match command {
        Cmd::Call { load, .. } | Cmd::Reply { load, .. } => Some(load),
        _ => None,
    }
}

fn put_load(command: &mut Cmd, simpler: Load) {
    if let Cmd::Call { load, .. } | Cmd::Reply { load, .. } = command {
        *load = simpler;
    }
}

/// Loads that are a little simpler than this one, the simplest first.
fn simpler_loads(load: Option<&Load>) -> Vec<Load> {
    let Some(load) = load else { return Vec::new() };
    let mut simpler = vec![Load::default(), Load { damage: None, ..load.clone() }, Load { sg: None, ..load.clone() }];
    for index in 0..load.objects.len() {
        let mut fewer = load.clone();
        fewer.objects.remove(index);
        simpler.push(fewer);
    }
    simpler.push(Load { head: load.head.min(8), ..load.clone() });
    simpler.retain(|simpler| simpler != load);
    simpler
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Step;

    #[test]
    fn only_what_matters_is_left() {
        let step = |thread| Step { process: 0, thread, action: Action::Poll };
        let noise = Talk {
            commands: vec![Cmd::EnterLooper, Cmd::AttemptAcquire, Cmd::ExitLooper],
            cut: 3,
            room: 99,
            place: Place::ReadEnd(4),
        };
        let mut steps: Vec<_> = (0..20).map(step).collect();
        steps.insert(9, Step { process: 0, thread: 0, action: Action::Talk(noise) });
        let program = Program { seed: 1, mappings: vec![0], threads: 20, steps };
        let holds = |program: &Program| {
            let tried = program.steps.iter().any(|step| match &step.action {
                Action::Talk(talk) => talk.commands.contains(&Cmd::AttemptAcquire),
                _ => false,
            });
            tried && program.steps.contains(&step(17))
        };
        let least = minimise(program, holds);
        let only = Talk { commands: vec![Cmd::AttemptAcquire], cut: 0, room: 0, place: Place::Usual };
        let wanted = [Step { process: 0, thread: 0, action: Action::Talk(only) }, step(17)];
        assert_eq!(least.steps, wanted);
    }
}
