package freshness

import (
	"errors"
	"iter"
	"log/slog"
	"maps"
	"sync"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/metrics"
	"hubcap/proxy/memory"
)

// tagsInMemory is how many tags and lists are answered without reading the
// index.
const tagsInMemory = 65_536

// tags is what is known of tags and lists: in memory, and written to the index
// by a goroutine, so that no answer waits for a disk.
type tags struct {
	memory  *memory.Memory[index.Name, index.Tag]
	index   *index.Index
	metrics *metrics.Fills
	log     *slog.Logger

	kick chan struct{} // there is something unwritten
	done chan struct{} // closed when write has ended

	mu        sync.Mutex
	unwritten map[index.Name]*change // not yet in the index
	closed    bool
}

// change is one write to the index.
type change struct {
	tag    index.Tag
	sync   bool
	remove bool
}

func newTags(x *index.Index, m *metrics.Fills, log *slog.Logger) *tags {
	t := &tags{
		memory: memory.New[index.Name, index.Tag](tagsInMemory, nil), index: x, metrics: m, log: log,
		kick: make(chan struct{}, 1), done: make(chan struct{}), unwritten: make(map[index.Name]*change),
	}
	go t.write()
	return t
}

// get returns what is known of a name.
func (t *tags) get(name index.Name) (index.Tag, bool) {
	if tag, ok := t.memory.Get(name); ok {
		return tag, true
	}
	t.mu.Lock()
	c := t.unwritten[name]
	t.mu.Unlock()
	if c != nil {
		return c.tag, !c.remove
	}
	tag, ok, err := t.index.Tag(name)
	if err != nil {
		t.failed(err)
		return index.Tag{}, false
	}
	if ok {
		t.memory.Keep(name, tag)
	}
	return tag, ok
}

// changes returns the changes that are not in the index yet.
func (t *tags) changes() map[index.Name]*change {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.unwritten)
}

// all iterates over what is known of the names in a repository; see
// Resolver.Known.
func (t *tags) all(registry, repository string) iter.Seq2[index.Name, index.Tag] {
	return func(yield func(index.Name, index.Tag) bool) {
		seen := make(map[index.Name]bool)
		first := func(name index.Name) bool {
			if seen[name] || !name.In(registry, repository) {
				return false
			}
			seen[name] = true
			return true
		}
		unwritten := t.changes() // before the index is read
		for name, tag := range t.memory.All() {
			if first(name) && !yield(name, tag) {
				return
			}
		}
		for name, c := range unwritten {
			if first(name) && !c.remove && !yield(name, c.tag) {
				return
			}
		}
		for record, err := range t.index.Tags(registry, repository) {
			if err != nil {
				t.failed(err)
				return
			}
			if first(record.Name) && !yield(record.Name, record.Tag) {
				return
			}
		}
	}
}

// set records a tag in memory.
func (t *tags) set(name index.Name, tag index.Tag) { t.memory.Keep(name, tag) }

// confirm records a tag that names the same digest as before, or one that is not
// held. It may be lost in a power cut.
func (t *tags) confirm(name index.Name, tag index.Tag) {
	t.set(name, tag)
	t.save(name, tag, false)
}

// save has a tag written to the index; with sync, it then survives a power cut.
func (t *tags) save(name index.Name, tag index.Tag, sync bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.enqueue(name, change{tag: tag, sync: sync})
}

// saveCurrent saves a tag if it still names in memory what it did.
func (t *tags) saveCurrent(name index.Name, tag index.Tag) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now, ok := t.memory.Get(name); ok && now.Digest == tag.Digest {
		t.enqueue(name, change{tag: now})
	}
}

// forget removes a tag, unless it no longer names d.
func (t *tags) forget(name index.Name, d digest.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now, ok := t.memory.Get(name); ok && now.Digest != d {
		return
	}
	t.memory.Remove(name)
	t.enqueue(name, change{remove: true})
}

// enqueue has a change written. t.mu is held.
func (t *tags) enqueue(name index.Name, c change) {
	if t.closed {
		return
	}
	if before := t.unwritten[name]; before != nil {
		c.sync = c.sync || before.sync
	}
	t.unwritten[name] = &c
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// write writes changes to the index until close is called. A change that
// replaces one that is being written is written in the next round.
func (t *tags) write() {
	defer close(t.done)
	for range t.kick {
		for name, c := range t.changes() {
			if err := t.apply(name, c); err != nil {
				t.failed(err)
			}
			t.mu.Lock()
			if t.unwritten[name] == c {
				delete(t.unwritten, name)
			}
			t.mu.Unlock()
		}
	}
}

func (t *tags) apply(name index.Name, c *change) error {
	if c.remove {
		return t.index.DeleteTag(name)
	}
	return t.index.PutTag(name, c.tag, c.sync)
}

func (t *tags) failed(err error) {
	t.metrics.IndexFailed()
	if errors.Is(err, index.ErrNoRoom) {
		return // a full disk is logged elsewhere
	}
	t.log.Warn("the index failed; tags are known from memory only", "err", err)
}

// close writes the unwritten changes and ends the goroutine.
func (t *tags) close() {
	t.mu.Lock()
	closed := t.closed
	t.closed = true
	t.mu.Unlock()
	if closed {
		return
	}
	close(t.kick) // a kick that is in it is still received
	<-t.done
}
