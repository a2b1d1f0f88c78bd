package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/cache/fill"
	"hubcap/cache/index"
	"hubcap/eviction/digests"
	"hubcap/metrics"
)

// trust knows which files were verified, when, and their signatures then. A file
// with the same signature that was verified within the interval is sent without
// hashing; any other one is hashed while it is sent.
type trust struct {
	mu      sync.Mutex
	known   *digests.Table[index.Verified]
	unsaved map[digest.Digest]struct{} // not in the index yet
	running map[digest.Digest]*check
}

func newTrust() *trust {
	return &trust{
		known:   digests.New[index.Verified](),
		unsaved: make(map[digest.Digest]struct{}),
		running: make(map[digest.Digest]*check),
	}
}

// verified notes that the file of d, with this stat, is right.
func (t *trust) verified(d digest.Digest, stat blobs.Stat, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(d, index.Verified{Signature: stat.Signature, Size: stat.Size, At: now.Unix()})
	t.unsaved[d] = struct{}{}
}

// set and get access known. t.mu is held.
func (t *trust) set(d digest.Digest, v index.Verified) {
	r, known := t.known.Find(d)
	if !known {
		r = t.known.Add(d)
	}
	*t.known.At(r) = v
}

func (t *trust) get(d digest.Digest) (v index.Verified, known bool) {
	r, known := t.known.Find(d)
	if known {
		v = *t.known.At(r)
	}
	return v, known
}

// moved notes that the stat of the file of d has changed from before to after,
// and its content has not.
func (t *trust) moved(d digest.Digest, before, after blobs.Stat) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if v, ok := t.get(d); ok && v.Signature == before.Signature {
		v.Signature = after.Signature
		t.set(d, v)
		t.unsaved[d] = struct{}{}
	}
}

// learn takes what the index has, unless something newer is known already.
func (t *trust) learn(d digest.Digest, v index.Verified) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.get(d); !known {
		t.set(d, v)
	}
}

// of returns what is known of the right file of d.
func (t *trust) of(d digest.Digest) (v index.Verified, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.get(d)
}

// Verified reports whether the file of d was verified within VerifyInterval.
func (c *Cache) Verified(d digest.Digest) bool {
	v, known := c.trust.of(d)
	return known && c.recent(v)
}

// recent reports whether that is within VerifyInterval. The clock may have been set.
func (c *Cache) recent(v index.Verified) bool {
	age := c.o.Now().Unix() - v.At
	return age >= 0 && age < int64(c.o.VerifyInterval/time.Second)
}

// trusted reports whether the file of d, with this signature, need not be
// hashed.
func (c *Cache) trusted(d digest.Digest, signature uint64) bool {
	c.trust.mu.Lock()
	defer c.trust.mu.Unlock()
	return c.trustedLocked(d, signature)
}

// trustedLocked is trusted while trust.mu is held.
func (c *Cache) trustedLocked(d digest.Digest, signature uint64) bool {
	v, known := c.trust.get(d)
	return known && v.Signature == signature && c.recent(v)
}

func (t *trust) forget(d digest.Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, known := t.known.Find(d); known {
		t.known.Remove(r)
	}
	delete(t.unsaved, d)
}

// take returns what is not in the index yet.
func (t *trust) take() map[digest.Digest]index.Verified {
	t.mu.Lock()
	defer t.mu.Unlock()
	batch := make(map[digest.Digest]index.Verified, len(t.unsaved))
	for d := range t.unsaved {
		batch[d], _ = t.get(d)
	}
	clear(t.unsaved)
	return batch
}

// check is the hashing of one whole file, for all callers that wait for its
// result.
type check struct {
	done chan struct{}
	err  error // set before done is closed: nil, fill.ErrWrongContent, or of reading
}

// check starts to hash the file of d, or joins a check that is running. A check that
// has ended since the file, with this signature, was opened is not repeated: its result
// is noted before it leaves the list of those that run.
func (c *Cache) check(d digest.Digest, signature uint64) *check {
	c.trust.mu.Lock()
	defer c.trust.mu.Unlock()
	if one := c.trust.running[d]; one != nil {
		return one
	}
	one := &check{done: make(chan struct{})}
	if c.trustedLocked(d, signature) {
		close(one.done)
		return one
	}
	c.trust.running[d] = one
	started := c.work(func() {
		defer func() {
			if p := recover(); p != nil {
				c.panicked("a verification", d, p)
				one.err = fmt.Errorf("panic: %v", p)
			}
			c.trust.mu.Lock()
			delete(c.trust.running, d)
			c.trust.mu.Unlock()
			close(one.done)
		}()
		one.err = c.verify(c.base, d, func(int) error { return nil })
	})
	if !started {
		delete(c.trust.running, d)
		one.err = fill.ErrStopped
		close(one.done)
	}
	return one
}

// wait waits for the result of a check.
func (k *check) wait(ctx context.Context) error {
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// verify hashes the file of d, and removes it if it is wrong; pace is called
// before each read, with the number of bytes. The error is errNotHeld for a blob
// that was evicted meanwhile or whose file is missing, and fill.ErrUnreadable for one
// that cannot be read now.
func (c *Cache) verify(ctx context.Context, d digest.Digest, pace func(n int) error) error {
	if !c.o.Ledger.Holds(d) {
		return errNotHeld
	}
	one := c.files.Acquire(d)
	defer func() { c.files.Release(d, one) }()
	f, before, err := c.openFile(d, c.classes.of(d))
	if err != nil {
		return c.unreadable(d, 0, err)
	}
	defer f.Close()
	var at int64
	h := d.Algorithm().Hash()
	buf := fill.Buffers.Get().(*[fill.BufferSize]byte)
	defer fill.Buffers.Put(buf)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := pace(len(buf)); err != nil {
			return err
		}
		n, err := f.Read(buf[:])
		h.Write(buf[:n])
		at += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c.unreadable(d, at, err)
		}
	}
	after, err := c.o.Store.Stat(f)
	switch {
	case err != nil:
		return c.unreadable(d, at, err)
	case !fill.HashesTo(h, d):
		c.fills.NoteWrong(d)
		c.lost(d, before.Size, after.Size, fill.ErrWrongContent)
		return fill.ErrWrongContent
	case after.Signature != before.Signature: // something is writing to it
		return fmt.Errorf("%w: it changes", fill.ErrUnreadable)
	}
	c.o.Metrics.Checks.Ended(metrics.CheckRight)
	c.verified(d, after)
	return nil
}

// verified notes that the file of d is right. It may have been evicted
// meanwhile.
func (c *Cache) verified(d digest.Digest, stat blobs.Stat) {
	c.unread.remove(d)
	c.trust.verified(d, stat, c.o.Now())
	if !c.o.Ledger.Holds(d) {
		c.trust.forget(d)
	}
}
