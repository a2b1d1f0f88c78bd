package cache

import (
	"iter"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/content"
	"hubcap/eviction"
)

// Objects iterates over all that is on disk; see eviction.Ledger.Objects.
func (c *Cache) Objects() iter.Seq[eviction.Object] { return c.o.Ledger.Objects() }

// Purge removes what is held of d, at the wish of an operator: its file, which
// readers that have it open read to the end, or its partial fill, and the manifest
// in memory. A fill that is running goes on. With dryRun nothing is removed. It
// returns how many bytes that is, and reports whether anything is held.
func (c *Cache) Purge(d digest.Digest, dryRun bool) (bytes int64, held bool) {
	bytes, held = c.o.Ledger.Purge(d, dryRun)
	inMemory := c.manifests.has(d)
	if !dryRun {
		c.manifests.remove(d)
		if held {
			c.Remove(d)
		} else {
			c.edges.Remove(d)
		}
	}
	return bytes, held || inMemory
}

// Evict evicts what is evicted next when room is made, until that has at least
// some bytes on disk; see eviction.Janitor.Evict.
func (c *Cache) Evict(bytes int64) []eviction.Object { return c.janitor.Evict(bytes) }

// Names returns what the manifest d names as far as that is in memory; known is false
// for what is not known to be a manifest.
func (c *Cache) Names(d digest.Digest) (parts []content.Part, known bool) { return c.edges.Parts(d) }

// NamedBy returns the manifests that are held and name d.
func (c *Cache) NamedBy(d digest.Digest) []digest.Digest { return c.edges.Naming(d) }
