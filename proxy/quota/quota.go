// Package quota says how much there may be: of connections and fills, by
// the descriptors and the memory that this process has, and of questions that
// one client has registries asked in vain. It knows the system and addresses;
// it knows neither requests nor registries.
//
// Files: quota.go (this), process.go (what the process has), misses.go (what
// one client may cause).
package quota
