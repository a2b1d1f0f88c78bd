// Package quota says how much there may be: of connections and fills, by
// the descriptors and the memory that this process has, of the disk beside the
// blobs, and of questions that one client has registries asked in vain. It knows
// the system and addresses; it knows neither requests nor registries.
//
// Files: quota.go (this), process.go (what the process has), disk.go (what the
// cache leaves), misses.go (what one client may cause).
package quota
