package cache

import (
	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/fill"
)

// keeper is the cache as fills use it.
type keeper struct{ *Cache }

// Clear implements fill.Holder.
func (k keeper) Clear(d digest.Digest) error { return k.removeLocked(d) }

// Keep implements fill.Holder.
func (k keeper) Keep(one fill.Kept) {
	k.committed(one.Digest, one.Stat, one.Class, one.Host, one.Reserved)
	if k.o.Kept != nil && one.Fetched && one.Class == blobs.Public {
		k.o.Kept(one.Digest)
	}
}

// Reveal implements fill.Holder.
func (k keeper) Reveal(d digest.Digest) { k.revealLocked(d) }

// Writable implements fill.Disk.
func (k keeper) Writable() error { return k.writable() }

// WriteFailed implements fill.Disk.
func (k keeper) WriteFailed(err error) { k.writeFailed(err) }
