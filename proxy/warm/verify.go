package warm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"hubcap/cache"
	"hubcap/cache/content"
	"hubcap/eviction"
	"hubcap/proxy/jobs"
	"hubcap/proxy/reference"
)

// ErrNotHeld says that nothing of an image is held.
var ErrNotHeld = errors.New("nothing of this image is held")

// maxNamed is how many files of each verdict are named among the errors of a job.
const maxNamed = 30

// StartVerify has the files of an image hashed by a job, or those of all that is held
// if ref is nil, one after the other. The job has an item for each cache.Verdict that
// came up. What is wrong is removed, and fetched again when it is next requested. No
// registry is asked: a tag is what it was last known to name. The error is
// ErrNotHeld, one of the reference, or of jobs.List.Start.
func (w *Warmer) StartVerify(ref *reference.Reference) (jobs.Job, error) {
	files, what := w.files, "all files"
	if ref != nil {
		top, err := w.known(*ref)
		if err != nil {
			return jobs.Job{}, err
		}
		files, what = func() []eviction.Object { return w.filesOf(top) }, ref.String()
		if len(files()) == 0 {
			return jobs.Job{}, fmt.Errorf("%s: %w", ref, ErrNotHeld)
		}
	}
	return w.o.Jobs.Start(jobs.Work{Kind: jobs.Verify, What: what, Run: func(ctx context.Context, t *jobs.Task) error {
		return w.verify(ctx, t, files())
	}})
}

// known returns the digest that a reference was last known to name.
func (w *Warmer) known(ref reference.Reference) (digest.Digest, error) {
	if ref.Digest != "" {
		return ref.Digest, nil
	}
	repository, err := w.Repository(ref)
	if err != nil {
		return "", err
	}
	if d, ok := repository.Known(ref.Tag); ok {
		return d, nil
	}
	return "", fmt.Errorf("%s: %w", ref, ErrNotHeld)
}

// files returns all files that are held.
func (w *Warmer) files() (all []eviction.Object) {
	for o := range w.o.Cache.Objects() {
		if !o.Partial {
			all = append(all, o)
		}
	}
	return all
}

// filesOf returns those of the manifest d and of all that can be reached from it.
func (w *Warmer) filesOf(d digest.Digest) []eviction.Object {
	tree := map[digest.Digest]bool{d: true}
	for queue := []digest.Digest{d}; len(queue) > 0; queue = queue[1:] {
		parts, _ := w.o.Cache.Parts(queue[0])
		for _, p := range parts {
			if !tree[p.Digest] && p.Is(content.RoleChild) {
				queue = append(queue, p.Digest)
			}
			tree[p.Digest] = true
		}
	}
	return slices.DeleteFunc(w.files(), func(o eviction.Object) bool { return !tree[o.Digest] })
}

// verify is the work of StartVerify.
func (w *Warmer) verify(ctx context.Context, t *jobs.Task, files []eviction.Object) error {
	var total, done int64
	for _, o := range files {
		total += o.Size
	}
	slices.SortFunc(files, func(a, b eviction.Object) int { return cmp.Compare(a.Digest, b.Digest) })
	found := make(map[cache.Verdict]*jobs.Item)
	for _, v := range []cache.Verdict{cache.Right, cache.Wrong, cache.Missing, cache.Unreadable} {
		found[v] = &jobs.Item{Name: string(v), OK: v == cache.Right}
	}
	defer func() {
		for _, v := range []cache.Verdict{cache.Right, cache.Wrong, cache.Missing, cache.Unreadable} {
			if one := found[v]; one.Objects > 0 || one.OK {
				one.Result = fmt.Sprintf("%d files%s", one.Objects, afterwards[v])
				t.Item(*one)
			}
		}
	}()
	for i, o := range files {
		t.Progress(i, len(files), done, total)
		verdict, err := w.o.Cache.Verify(ctx, o.Digest)
		if err != nil {
			return err
		}
		done += o.Size
		one := found[verdict]
		one.Objects++
		one.Bytes += o.Size
		if verdict != cache.Right && one.Objects <= maxNamed {
			t.Error(fmt.Sprintf("%s: %s", o.Digest, verdict))
		}
	}
	t.Progress(len(files), len(files), total, total)
	return nil
}

// afterwards says what becomes of the files of a verdict.
var afterwards = map[cache.Verdict]string{
	cache.Wrong:      ", removed: they are fetched again when they are next requested",
	cache.Missing:    ", gone: they are fetched again when they are next requested",
	cache.Unreadable: ", kept and tried again: they are fetched meanwhile when they are requested",
}
