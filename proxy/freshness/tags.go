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

	kick    chan struct{} // there is something unwritten
	done    chan struct{} // closed when write has ended
	writing sync.Mutex    // held while the index is written; taken before mu

	// changed is called without a lock when a tag begins or ceases to name a digest,
	// and when what an operator wants of it changes. Of one that is forgotten it is
	// called with the zero Tag. nil for nobody.
	changed func(name index.Name, now index.Tag)

	counted chan struct{} // closed when kept and known are complete

	mu        sync.Mutex
	unwritten map[index.Name]*change   // not yet in the index
	written   int                      // changes that no longer are in unwritten
	kept      map[index.Name]index.Tag // the tags that are frozen or have a candidate
	known     int                      // how many tags there are
	closed    bool
}

// change is one write to the index.
type change struct {
	tag    index.Tag
	sync   bool
	remove bool
}

// saving is how a change reaches the index.
type saving uint8

const (
	notYet saving = iota // the manifest that the tag names is not on disk yet
	lazily               // may be lost in a power cut
	synced               // survives a power cut once it is written
)

func newTags(x *index.Index, m *metrics.Fills, log *slog.Logger) *tags {
	t := &tags{
		memory: memory.New[index.Name, index.Tag](tagsInMemory, nil), index: x, metrics: m, log: log,
		kick: make(chan struct{}, 1), done: make(chan struct{}), counted: make(chan struct{}),
		unwritten: make(map[index.Name]*change), kept: make(map[index.Name]index.Tag),
	}
	t.writing.Lock() // until the index has been counted
	go t.write()
	return t
}

// get returns what is known of a name.
func (t *tags) get(name index.Name) (index.Tag, bool) {
	if tag, ok := t.memory.Get(name); ok {
		return tag, true
	}
	defer t.mu.Unlock()
	return t.lookup(name)
}

// lookup returns what is known of a name, and leaves t.mu locked. The index is read
// without it, and read again if anything was written meanwhile: what was read may
// be of before a change that is in memory no more.
func (t *tags) lookup(name index.Name) (index.Tag, bool) {
	for {
		t.mu.Lock()
		if tag, ok, decided := t.current(name); decided {
			return tag, ok
		}
		written := t.written
		t.mu.Unlock()
		tag, found, err := t.index.Tag(name)
		t.mu.Lock()
		if now, ok, decided := t.current(name); decided {
			return now, ok
		}
		switch {
		case err != nil:
			t.failed(err)
			return index.Tag{}, false
		case t.written == written && found:
			t.set(name, tag, true)
			return tag, true
		case t.written == written:
			return index.Tag{}, false
		}
		t.mu.Unlock()
	}
}

// current returns what is known of a name without the index; decided reports
// whether that is all. t.mu is held.
func (t *tags) current(name index.Name) (tag index.Tag, ok, decided bool) {
	if tag, ok := t.memory.Get(name); ok {
		return tag, true, true
	}
	if c := t.unwritten[name]; c != nil {
		return c.tag, !c.remove, true
	}
	return index.Tag{}, false, false
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

// update replaces what is known of a name by what change makes of it, and
// returns that. No other change comes between. change must not block.
func (t *tags) update(name index.Name, how saving, change func(known index.Tag, ok bool) index.Tag) index.Tag {
	known, tag := t.replace(name, how, change)
	if named(known, tag) {
		t.tell(name, tag)
	}
	return tag
}

func (t *tags) replace(name index.Name, how saving, change func(known index.Tag, ok bool) index.Tag) (known, tag index.Tag) {
	defer t.mu.Unlock()
	known, ok := t.lookup(name)
	tag = change(known, ok)
	t.set(name, tag, ok)
	if how != notYet {
		t.enqueue(name, tag, how)
	}
	return known, tag
}

// named reports whether a change of a tag is one that tags.changed is called for.
func named(before, now index.Tag) bool {
	candidate := func(t index.Tag) (d digest.Digest) {
		if t.Candidate != nil {
			d = t.Candidate.Digest
		}
		return d
	}
	return before.Digest != now.Digest || candidate(before) != candidate(now) || before.Frozen != now.Frozen
}

// tell calls changed. t.mu is not held.
func (t *tags) tell(name index.Name, now index.Tag) {
	if t.changed != nil && name.Kind == index.KindTag {
		t.changed(name, now)
	}
}

// set records a tag in memory; ok reports whether it was known. t.mu is held.
func (t *tags) set(name index.Name, tag index.Tag, ok bool) {
	t.memory.Keep(name, tag)
	if name.Kind != index.KindTag {
		return
	}
	if !ok {
		t.known++
	}
	if tag.Frozen != nil || tag.Candidate != nil {
		t.kept[name] = tag
	} else {
		delete(t.kept, name)
	}
}

// save has a tag written to the index if it still names d.
func (t *tags) save(name index.Name, d digest.Digest, how saving) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now, ok := t.memory.Get(name); ok && now.Digest == d {
		t.enqueue(name, now, how)
	}
}

// forget removes a tag, unless it no longer names d, or keep reports that it
// stays.
func (t *tags) forget(name index.Name, d digest.Digest, keep func(index.Tag) bool) {
	if t.drop(name, d, keep) {
		t.tell(name, index.Tag{})
	}
}

// drop is forget, and reports whether the tag was known.
func (t *tags) drop(name index.Name, d digest.Digest, keep func(index.Tag) bool) bool {
	defer t.mu.Unlock()
	now, ok := t.lookup(name)
	if ok && (now.Digest != d || keep(now)) {
		return false
	}
	if ok && name.Kind == index.KindTag {
		t.known--
	}
	t.memory.Remove(name)
	delete(t.kept, name)
	t.queue(name, &change{remove: true})
	return ok
}

// enqueue has a tag written. t.mu is held.
func (t *tags) enqueue(name index.Name, tag index.Tag, how saving) {
	c := &change{tag: tag, sync: how == synced}
	if before := t.unwritten[name]; before != nil {
		c.sync = c.sync || before.sync
	}
	t.queue(name, c)
}

// queue has a change written. t.mu is held.
func (t *tags) queue(name index.Name, c *change) {
	if t.closed {
		return
	}
	t.unwritten[name] = c
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// write writes changes to the index until close is called.
func (t *tags) write() {
	defer close(t.done)
	t.count()
	for range t.kick {
		for name := range t.changes() {
			t.writing.Lock()
			err := t.flush(name)
			t.writing.Unlock()
			if err != nil {
				t.failed(err)
			}
		}
	}
}

// count finds the tags in the index that are frozen or have a candidate, and
// counts all. Nothing is written meanwhile. t.writing is held, and released.
func (t *tags) count() {
	defer close(t.counted)
	defer t.writing.Unlock()
	kept, known, err := t.index.Kept()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failed(err)
	}
	t.known += known
	for _, one := range kept {
		if _, _, decided := t.current(one.Name); !decided { // else it has been read, or changed, since
			t.kept[one.Name] = one.Tag
		}
	}
}

// commit is update, and returns when the change is on disk. With an error it is
// known in memory only.
func (t *tags) commit(name index.Name, change func(known index.Tag, ok bool) index.Tag) (index.Tag, error) {
	t.writing.Lock()
	defer t.writing.Unlock()
	tag := t.update(name, synced, change)
	return tag, t.flush(name)
}

// flush writes the change of a name, if there is one that is not written yet.
// t.writing is held.
func (t *tags) flush(name index.Name) error {
	t.mu.Lock()
	c := t.unwritten[name]
	t.mu.Unlock()
	if c == nil {
		return nil
	}
	err := t.apply(name, c)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.unwritten[name] == c { // else it is written in the next round
		delete(t.unwritten, name)
		t.written++
	}
	return err
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
