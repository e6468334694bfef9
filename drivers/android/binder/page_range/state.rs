// SPDX-License-Identifier: GPL-2.0
#![forbid(unsafe_code)]

//! What becomes of one page of a mapping: the states of a slot, and what leads from one to another.
//!
//! Nothing here touches a list or a page. Each step changes the state and says what is to be done about the two, which
//! is done before the lock is dropped.

use kernel::prelude::*;

/// Where a slot's list entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On no list.
    Off,
    /// On the LRU.
    Listed,
    /// On the private list of a shrinker that is about to zap the page.
    Isolated,
}

/// What user space can see of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Nothing: nothing was delivered in it since it was allocated. It is in no page table, and does not get there.
    Hidden,
    /// All that is in it, if it is mapped: something was delivered in it.
    Shown,
    /// As `Shown`, and it was mapped and not zapped by us since. A hint that saves work: others unmap as they please.
    Mapped,
}

/// What there is to know of a slot besides its page and users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flags {
    place: Place,
    /// The slot is `Isolated`, and the page had no users since.
    reclaiming: bool,
    view: View,
}

/// What is to be done with a page that has just lost a user or a shrinker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing: the page has a user, or is where it should be.
    Keep,
    /// The slot goes on the LRU, and becomes `Listed` by that.
    List,
    /// The page is freed.
    Free,
}

impl Flags {
    /// Of a slot that never had a page.
    pub(super) const FRESH: Self = Self {
        place: Place::Off,
        reclaiming: false,
        view: View::Hidden,
    };

    /// Whether the slot is on the LRU.
    pub(super) fn is_listed(&self) -> bool {
        self.place == Place::Listed
    }

    /// What user space can see of the page.
    pub(super) fn view(&self) -> View {
        self.view
    }

    /// The slot was put on the LRU, as [`Next::List`] asked for.
    pub(super) fn listed(&mut self) {
        self.place = Place::Listed;
    }

    /// The page was mapped.
    pub(super) fn mapped(&mut self) {
        self.view = View::Mapped;
    }

    /// The page was freed.
    pub(super) fn freed(&mut self) {
        self.view = View::Hidden;
    }

    /// One user more. There is a page.
    #[inline]
    pub(super) fn begin_use(&mut self, users: &mut u32) {
        // A user comes, so that the page is not reclaimed. The shrinker will see it.
        self.reclaiming = false;
        *users = users.saturating_add(1);
    }

    /// One user less; `dead` as in [`Guarded`](super::slot::Guarded).
    #[inline]
    pub(super) fn end_use(&mut self, users: &mut u32, dead: bool) -> Next {
        *users = users.saturating_sub(1);
        if *users != 0 {
            return Next::Keep;
        }
        match (self.place, dead) {
            (Place::Off, false) => Next::List,
            // A dead range has no mapping left.
            (Place::Off, true) => Next::Free,
            (Place::Isolated, true) => {
                // The shrinker that has it frees it.
                self.reclaiming = true;
                Next::Keep
            }
            (Place::Listed | Place::Isolated, _) => Next::Keep,
        }
    }

    /// Something is delivered in the page, which has a user. From now on it may be mapped.
    pub(super) fn show(&mut self) {
        if self.view == View::Hidden {
            self.view = View::Shown;
        }
    }

    /// A shrinker has found the slot on the LRU and takes it off; says whether it may zap the page.
    pub(super) fn isolate(&mut self, users: u32) -> bool {
        if users != 0 {
            // The last user puts it back.
            self.place = Place::Off;
            return false;
        }
        self.place = Place::Isolated;
        self.reclaiming = true;
        true
    }

    /// The shrinker that isolated the slot has zapped the page.
    pub(super) fn zapped(&mut self, users: u32, dead: bool) -> Next {
        self.place = Place::Off;
        // A user that came meanwhile may have mapped the page before the zap.
        if self.view == View::Mapped {
            self.view = View::Shown;
        }
        if core::mem::take(&mut self.reclaiming) {
            // The page had no user since it was isolated, and only pages in use are mapped: what the zap removed has
            // not come back.
            Next::Free
        } else if users == 0 && !dead {
            Next::List
        } else {
            Next::Keep
        }
    }

    /// The range dies. The slot is taken off the LRU if it was `Listed`, and its page freed unless it has users or a
    /// shrinker, which see to that.
    pub(super) fn shut_down(&mut self, users: u32) -> Next {
        if self.place == Place::Isolated {
            self.reclaiming = users == 0;
            return Next::Keep;
        }
        self.place = Place::Off;
        if users == 0 {
            Next::Free
        } else {
            Next::Keep
        }
    }
}

#[kunit_tests(binder_page_states)]
mod tests {
    use super::*;

    /// Users that a slot has at most here: with a third, nothing happens that does not with a second.
    const MOST: u32 = 2;

    /// A slot as a whole, with what is around it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct World {
        users: u32,
        flags: Flags,
        page: bool,
        dead: bool,
        /// Something was to be done that cannot be.
        broken: bool,
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin,
        End,
        Deliver,
        Map,
        Isolate,
        Zapped,
        ShutDown,
    }

    const STEPS: [Step; 7] = [
        Step::Begin,
        Step::End,
        Step::Deliver,
        Step::Map,
        Step::Isolate,
        Step::Zapped,
        Step::ShutDown,
    ];

    const FRESH: World = World {
        users: 0,
        flags: Flags::FRESH,
        page: false,
        dead: false,
        broken: false,
    };

    impl World {
        fn all() -> Result<KVec<Self>> {
            let mut all = KVec::new();
            for users in 0..=MOST {
                for place in [Place::Off, Place::Listed, Place::Isolated] {
                    for view in [View::Hidden, View::Shown, View::Mapped] {
                        for bits in 0..8u8 {
                            let bit = |n: u8| (bits >> n) & 1 != 0;
                            let flags = Flags {
                                place,
                                reclaiming: bit(0),
                                view,
                            };
                            let (page, dead) = (bit(1), bit(2));
                            let world = Self {
                                users,
                                flags,
                                page,
                                dead,
                                broken: false,
                            };
                            all.push(world, GFP_KERNEL)?;
                        }
                    }
                }
            }
            Ok(all)
        }

        /// What comes of a step, if the range does what it is told to; `None` where the step cannot happen.
        fn after(mut self, step: Step) -> Option<Self> {
            let (flags, users) = (&mut self.flags, &mut self.users);
            let next = match step {
                Step::Begin if *users < MOST => {
                    self.page = true;
                    flags.begin_use(users);
                    Next::Keep
                }
                Step::End if *users > 0 => flags.end_use(users, self.dead),
                Step::Deliver if *users > 0 && !self.dead => {
                    flags.show();
                    Next::Keep
                }
                Step::Map if *users > 0 && !self.dead && flags.view != View::Hidden => {
                    flags.view = View::Mapped;
                    Next::Keep
                }
                Step::Isolate if flags.place == Place::Listed => {
                    flags.isolate(*users);
                    Next::Keep
                }
                Step::Zapped if flags.place == Place::Isolated => flags.zapped(*users, self.dead),
                Step::ShutDown if !self.dead => {
                    self.dead = true;
                    flags.shut_down(*users)
                }
                _ => return None,
            };
            match next {
                Next::Keep => {}
                Next::List => {
                    // An entry is on one list at a time.
                    self.broken |= self.flags.place != Place::Off;
                    self.flags.place = Place::Listed;
                }
                Next::Free => {
                    self.broken |= self.users != 0 || self.flags.place != Place::Off;
                    self.page = false;
                    self.flags.view = View::Hidden;
                }
            }
            Some(self)
        }

        /// Whether a slot may ever be like this.
        fn is_sound(&self) -> bool {
            let Flags {
                place,
                reclaiming,
                view,
            } = self.flags;
            // A user, the LRU or a shrinker always sees to the page. None is forgotten, and none is in use
            // that is not there.
            let seen_to = self.users != 0 || place != Place::Off;
            !self.broken
                && self.page == seen_to
                && (view == View::Hidden || self.page)
                // Nothing is walked that is going.
                && !(place == Place::Listed && self.dead)
                // A shrinker frees a page only if it has no user, and all such pages of a dead range.
                && (!reclaiming || place == Place::Isolated && self.users == 0)
                && (reclaiming || !(place == Place::Isolated && self.users == 0 && self.dead))
        }
    }

    #[test]
    fn every_state_that_can_be_reached_is_sound() -> Result {
        let mut reached = KVec::new();
        reached.push(FRESH, GFP_KERNEL)?;
        let mut looked_at = 0;
        while let Some(&world) = reached.get(looked_at) {
            looked_at += 1;
            assert!(world.is_sound());
            for after in STEPS.iter().filter_map(|&step| world.after(step)) {
                if !reached.contains(&after) {
                    reached.push(after, GFP_KERNEL)?;
                }
            }
        }
        // And every sound state is reached, so that the search did not stop short: what is called impossible is.
        let sound = World::all()?
            .iter()
            .filter(|world| world.is_sound())
            .count();
        assert_eq!(reached.len(), sound);
        Ok(())
    }

    #[test]
    fn once_it_is_quiet_a_page_is_on_the_list_or_gone() -> Result {
        for world in World::all()?.iter().filter(|world| world.is_sound()) {
            // The users go and the shrinker comes back, in either order.
            for steps in [[Step::End, Step::Zapped], [Step::Zapped, Step::End]] {
                let mut world = *world;
                for step in steps {
                    while let Some(after) = world.after(step) {
                        world = after;
                    }
                }
                assert_eq!(world.users, 0);
                assert_eq!(world.page, world.flags.place == Place::Listed);
                assert!(!(world.dead && world.page));
            }
        }
        Ok(())
    }

    /// Each transition by name.
    #[test]
    fn a_page_comes_is_used_and_reclaimed() {
        let mut flags = Flags::FRESH;
        let mut users = 0;
        flags.begin_use(&mut users);
        flags.begin_use(&mut users);
        flags.show();
        assert_eq!(flags.view, View::Shown);
        flags.view = View::Mapped;
        // It is delivered in again, which changes nothing.
        flags.show();
        assert_eq!(flags.view, View::Mapped);
        assert_eq!(flags.end_use(&mut users, false), Next::Keep);
        assert_eq!(flags.end_use(&mut users, false), Next::List);
        flags.place = Place::Listed;
        assert!(flags.isolate(users));
        assert_eq!((flags.place, flags.reclaiming), (Place::Isolated, true));
        assert_eq!(flags.zapped(users, false), Next::Free);
        // With the page goes what was seen of it.
        flags.view = View::Hidden;
        assert_eq!(flags, Flags::FRESH);
    }

    #[test]
    fn a_user_who_comes_during_the_zap_keeps_the_page() {
        for gone_again in [false, true] {
            let mut flags = Flags::FRESH;
            let mut users = 0;
            flags.place = Place::Listed;
            assert!(flags.isolate(users));
            flags.begin_use(&mut users);
            flags.view = View::Mapped;
            if gone_again {
                assert_eq!(flags.end_use(&mut users, false), Next::Keep);
            }
            let next = flags.zapped(users, false);
            assert_eq!(next, if gone_again { Next::List } else { Next::Keep });
            // What was mapped meanwhile may have been zapped, and may be mapped again.
            assert_eq!(flags.view, View::Shown);
        }
    }

    #[test]
    fn a_page_that_nothing_was_delivered_in_stays_hidden() {
        let mut flags = Flags::FRESH;
        let mut users = 0;
        flags.begin_use(&mut users);
        assert_eq!(flags.end_use(&mut users, false), Next::List);
        flags.place = Place::Listed;
        assert!(flags.isolate(users));
        flags.begin_use(&mut users);
        assert_eq!(flags.zapped(users, false), Next::Keep);
        assert_eq!(flags.view, View::Hidden);
    }

    #[test]
    fn a_page_in_use_is_not_isolated() {
        let mut flags = Flags::FRESH;
        flags.place = Place::Listed;
        assert!(!flags.isolate(1));
        assert_eq!((flags.place, flags.reclaiming), (Place::Off, false));
        // The last user puts it back.
        assert_eq!(flags.end_use(&mut 1, false), Next::List);
    }

    #[test]
    fn a_dead_range_keeps_nothing() {
        // Unused on the list, in use, and with a shrinker, without and with a user.
        let place = |place| Flags {
            place,
            ..Flags::FRESH
        };
        assert_eq!(place(Place::Listed).shut_down(0), Next::Free);
        let mut flags = place(Place::Listed);
        assert_eq!(flags.shut_down(1), Next::Keep);
        assert_eq!(flags.place, Place::Off);
        assert_eq!(flags.end_use(&mut 1, true), Next::Free);
        let mut flags = place(Place::Isolated);
        assert_eq!(flags.shut_down(0), Next::Keep);
        assert_eq!(flags.zapped(0, true), Next::Free);
        let mut flags = place(Place::Isolated);
        assert_eq!(flags.shut_down(1), Next::Keep);
        assert_eq!(flags.zapped(1, true), Next::Keep);
        assert_eq!(flags.end_use(&mut 1, true), Next::Free);
        let mut flags = place(Place::Isolated);
        assert_eq!(flags.shut_down(1), Next::Keep);
        assert_eq!(flags.end_use(&mut 1, true), Next::Keep);
        assert_eq!(flags.zapped(0, true), Next::Free);
    }

    #[test]
    fn a_user_too_few_is_no_underflow() {
        let mut flags = Flags::FRESH;
        let mut users = 0;
        assert_eq!(flags.end_use(&mut users, false), Next::List);
        assert_eq!(users, 0);
    }
}
