package freshness

import (
	"errors"
	"log/slog"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/index"
	"hubcap/metrics"
)

// tagsInMemory is how many tags are answered without the index.
const tagsInMemory = 65_536

// tags is what is known of tags: in memory, and written behind to the index,
// so that no answer waits for a disk.
type tags struct {
	memory  *lru.Cache[string, index.Tag]
	index   *index.Index
	metrics *metrics.Fills
	log     *slog.Logger

	kick chan struct{}
	done chan struct{}

	mu      sync.Mutex
	pending map[string]change // not yet in the index
	writing map[string]change // on their way there
	closed  bool
}

// change is one write that the index has yet to get.
type change struct {
	tag    index.Tag
	sync   bool
	remove bool
}

func newTags(x *index.Index, m *metrics.Fills, log *slog.Logger) *tags {
	memory, err := lru.New[string, index.Tag](tagsInMemory)
	if err != nil {
		panic(err) // only a size below one is an error
	}
	t := &tags{
		memory: memory, index: x, metrics: m, log: log,
		kick: make(chan struct{}, 1), done: make(chan struct{}), pending: make(map[string]change),
	}
	go t.write()
	return t
}

// get tells what is known of a tag.
func (t *tags) get(key string) (index.Tag, bool) {
	if tag, ok := t.memory.Get(key); ok {
		return tag, true
	}
	t.mu.Lock()
	c, waits := t.pending[key]
	if !waits {
		c, waits = t.writing[key]
	}
	t.mu.Unlock()
	if waits {
		return c.tag, !c.remove
	}
	tag, ok, err := t.index.Tag(key)
	if err != nil {
		t.failed(err)
		return index.Tag{}, false
	}
	if ok {
		t.memory.Add(key, tag)
	}
	return tag, ok
}

// set notes in memory what a tag names.
func (t *tags) set(key string, tag index.Tag) { t.memory.Add(key, tag) }

// save has the index learn what a tag names, soon; with sync so that it
// survives a power cut.
func (t *tags) save(key string, tag index.Tag, sync bool) {
	t.queue(key, change{tag: tag, sync: sync})
}

// saveCurrent is save, of a tag that still names in memory what it did.
func (t *tags) saveCurrent(key string, tag index.Tag) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now, ok := t.memory.Peek(key); ok && now.Digest == tag.Digest {
		t.enqueue(key, change{tag: now})
	}
}

// forget drops a tag, unless it has moved away from d meanwhile.
func (t *tags) forget(key string, d digest.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now, ok := t.memory.Peek(key); ok && now.Digest != d {
		return
	}
	t.memory.Remove(key)
	t.enqueue(key, change{remove: true})
}

func (t *tags) queue(key string, c change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.enqueue(key, c)
}

// enqueue is queue, for who holds the lock.
func (t *tags) enqueue(key string, c change) {
	if t.closed {
		return
	}
	c.sync = c.sync || t.pending[key].sync
	t.pending[key] = c
	select {
	case t.kick <- struct{}{}:
	default:
	}
}

// write brings changes to the index until close.
func (t *tags) write() {
	defer close(t.done)
	for range t.kick {
		t.mu.Lock()
		batch := t.pending
		t.pending, t.writing = make(map[string]change), batch
		t.mu.Unlock()
		for key, c := range batch {
			if err := t.apply(key, c); err != nil {
				t.failed(err)
			}
		}
		t.mu.Lock()
		t.writing = nil
		t.mu.Unlock()
	}
}

func (t *tags) apply(key string, c change) error {
	if c.remove {
		return t.index.DeleteTag(key)
	}
	return t.index.PutTag(key, c.tag, c.sync)
}

func (t *tags) failed(err error) {
	t.metrics.IndexFailed()
	if errors.Is(err, index.ErrNoRoom) {
		return // the disk's trouble is told once
	}
	t.log.Warn("the index failed; tags are known from memory only", "err", err)
}

// close writes what is pending and ends.
func (t *tags) close() {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.closed = true
	select {
	case t.kick <- struct{}{}: // for what came after the last round began
	default:
	}
	close(t.kick)
	t.mu.Unlock()
	<-t.done
}
