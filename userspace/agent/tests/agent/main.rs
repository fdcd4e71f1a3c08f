//! The agent as it runs, against the embedded API server with its faults. The data plane is one
//! that records what it is told: what is tested here are decisions, not packets.

#[cfg(test)]
mod balancers;
#[cfg(test)]
mod events;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod life;
#[cfg(test)]
mod ranges;
#[cfg(test)]
mod recorder;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod shown;
