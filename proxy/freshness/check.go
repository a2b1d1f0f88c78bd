package freshness

import (
	"context"
	"errors"
	"time"

	"hubcap/cache/index"
	"hubcap/proxy/upstream"
)

// checkDelay is how long a client that could be given what is held waits for
// its check.
const checkDelay = 2 * time.Second

// errSlow says that an answer takes longer than a client waits for it.
var errSlow = errors.New("the upstream is slow: its answer is waited for behind")

// recheck confirms a tag past its time, once for all who ask.
func (r *Resolver) recheck(ctx context.Context, repo Repository, tag string, known index.Tag) (Answer, error) {
	key := repo.tag(tag)
	question := repo.question("check", key)
	r.refusals.knows(repo, tag)
	return r.soon(ctx, repo, question, known, func(ctx context.Context) (Answer, error) {
		known, ok := r.tags.get(key)
		switch {
		case !ok:
			return r.fetchTag(ctx, repo, tag)
		case r.fresh(repo, tag, r.age(known)):
			return r.withBody(repo, r.describe(known, Fresh)), nil
		}
		answer, err := r.askAgain(ctx, repo, tag, known)
		if err != nil {
			return r.without(ctx, repo, key, question, known, err)
		}
		r.failures.Forget(question)
		return answer, nil
	})
}

// soon asks what has become of something known, once for all who ask. While
// the upstream fails, or takes its time, the answer is what is held.
func (r *Resolver) soon(ctx context.Context, repo Repository, question string, known index.Tag, ask func(context.Context) (Answer, error)) (Answer, error) {
	var slow <-chan time.Time
	if r.servable(repo, known) {
		if trouble := r.failures.Of(question); trouble != nil {
			return r.stale(repo, known, trouble), nil
		}
		slow = r.after(checkDelay)
	}
	asked := r.begin(ctx, question, ask)
	select {
	case <-ctx.Done():
		return Answer{}, context.Cause(ctx)
	case <-slow:
		r.failures.Note(question, errSlow, checkAgain)
		return r.stale(repo, known, errSlow), nil
	case result := <-asked.done:
		return asked.answer(result)
	}
}

// without is the answer where the upstream has not told what has become of
// something known under key: what is held, or why not. Only what its registry
// says to be gone is forgotten; what it refuses is not served, and stays known.
func (r *Resolver) without(ctx context.Context, repo Repository, key, question string, known index.Tag, err error) (Answer, error) {
	failing := r.failing(ctx, repo, err)
	deleted := !failing && isGone(err) && r.keepDeleted && repo.Private == nil
	if !failing && !deleted {
		if isGone(err) || isKind(err, upstream.Withdrawn) {
			r.tags.forget(key, known.Digest)
		}
		return Answer{}, r.remember(repo, key, err)
	}
	since := known.Failing
	switch now := r.now(); {
	case deleted: // it has answered
		since = time.Time{}
	case since.IsZero() || since.After(now): // by a clock that was set back
		since = now
	}
	if !since.Equal(known.Failing) {
		known.Failing = since
		r.tags.set(key, known)
		r.tags.save(key, known, false)
	}
	if r.servable(repo, known) || deleted && r.holds(repo, known.Digest) {
		r.failures.Note(question, err, checkAgain)
		return r.stale(repo, known, err), nil
	}
	return Answer{}, r.remember(repo, key, err)
}

// askAgain asks what a known tag names now, and takes it up.
func (r *Resolver) askAgain(ctx context.Context, repo Repository, tag string, known index.Tag) (Answer, error) {
	key := repo.tag(tag)
	asked := r.now()
	d, err := r.ask(ctx, repo, tag)
	switch {
	case errors.Is(err, errNoHead):
		return r.fetchTag(ctx, repo, tag)
	case err != nil:
		return Answer{}, err
	case d.Digest == known.Digest:
		r.refusals.answered(repo)
		one := r.tagOf(key, d, asked)
		r.tags.set(key, one)
		r.tags.save(key, one, false)
		return r.withBody(repo, r.describe(one, Confirmed)), nil
	}
	r.refusals.answered(repo)
	one := r.tagOf(key, d, asked)
	answer, err := r.fetch(ctx, repo, d.Digest.String(), func() { r.tags.save(key, one, true) })
	if err != nil {
		return Answer{}, moving(err)
	}
	r.tags.set(key, one)
	r.log.Info("a tag has moved", "tag", key, "from", known.Digest, "to", d.Digest)
	return answer, nil
}

// moving is the failure to fetch what a tag has moved to. A registry that does
// not have what it has just named is in trouble.
func moving(err error) error {
	var e *upstream.Error
	if errors.As(err, &e) && e.Kind == upstream.NotFound {
		torn := *e
		torn.Kind = upstream.Invalid
		return &torn
	}
	return err
}

// stale answers with what is held, because of a trouble.
func (r *Resolver) stale(repo Repository, known index.Tag, trouble error) Answer {
	answer := r.withBody(repo, r.describe(known, Stale))
	answer.Trouble, answer.Deleted = trouble, isGone(trouble)
	return answer
}

// servable tells whether what a tag was last known to name is here, and may be
// the answer while the upstream fails.
func (r *Resolver) servable(repo Repository, known index.Tag) bool {
	if repo.StaleFor >= 0 && (repo.StaleFor == 0 || !known.Failing.IsZero() && r.now().Sub(known.Failing) >= repo.StaleFor) {
		return false
	}
	return r.holds(repo, known.Digest)
}

// remember notes an answer that will be the same in a moment: there is nothing.
// Who asks a private repository is told what he is told.
func (r *Resolver) remember(repo Repository, key string, err error) error {
	if repo.Private == nil && Absent(err) {
		r.failures.Note(key, err, AbsentFor)
	}
	return err
}

// Absent tells the failures that say there is nothing for anybody from those
// that say nothing of the content. What is refused to the box's credentials
// may be there.
func Absent(err error) bool {
	var e *upstream.Error
	return errors.As(err, &e) && (e.Kind == upstream.NotFound || e.Kind == upstream.Withdrawn || e.Kind == upstream.Denied && !e.Credentials)
}

// failing reports whether err is trouble of the upstream, in contrast to an
// answer about the repository: a failure that is none, a refusal of the box's
// credentials (they may have expired, and what they are used for is public), a
// refusal that its registry cannot be believed to mean this repository, and a
// refusal among others while the registry refuses everything.
func (r *Resolver) failing(ctx context.Context, repo Repository, err error) bool {
	var e *upstream.Error
	if !errors.As(err, &e) {
		return false
	}
	switch {
	case e.Failing():
		return true
	case e.Kind != upstream.Denied:
		return false
	case repo.Registry(ctx).Credentials():
		return true
	case repo.Private != nil:
		return false
	case e.Refusal == upstream.ByTokenService:
		return true // of an anonymous request, and the repository was public
	default:
		return r.refusals.refused(ctx, repo, err)
	}
}

// isGone reports whether the registry says that it has no such thing.
func isGone(err error) bool {
	var e *upstream.Error
	return errors.As(err, &e) && e.Kind == upstream.NotFound && !e.Failing()
}

func isKind(err error, kind upstream.Kind) bool {
	var e *upstream.Error
	return errors.As(err, &e) && e.Kind == kind
}
