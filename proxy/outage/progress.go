package outage

import (
	"sync"

	"github.com/opencontainers/go-digest"

	"hubcap/proxy/jobs"
	"hubcap/proxy/warm"
)

// progress is how far a repair is. Totals grow when more turns out to be missing.
type progress struct {
	task *jobs.Task

	mu                    sync.Mutex
	objects, objectsTotal int
	bytes, total          int64
	now                   []digest.Digest // being fetched
}

// update takes the progress of the image that is being fetched.
func (p *progress) update(now warm.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = now.Running
}

// add adds what was fetched.
func (p *progress) add(objects int, bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = nil
	p.objects, p.bytes = p.objects+objects, p.bytes+bytes
	p.objectsTotal, p.total = max(p.objects, p.objectsTotal), max(p.bytes, p.total)
	p.task.Progress(p.objects, p.objectsTotal, p.bytes, p.total)
}

// running returns the blobs that are being fetched.
func (p *progress) running() map[digest.Digest]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make(map[digest.Digest]bool, len(p.now))
	for _, d := range p.now {
		all[d] = true
	}
	return all
}
