package freshness

import (
	"context"

	"golang.org/x/sync/singleflight"
)

// call is an upstream request that several clients may wait for.
type call struct {
	done <-chan singleflight.Result
	mine *bool // whether this caller began it; valid once done
}

// begin starts a request, or joins the one under way with the same key. The
// request goes on when the client that began it leaves.
func (r *Resolver) begin(ctx context.Context, key string, ask func(context.Context) (Answer, error)) call {
	mine := false
	return call{mine: &mine, done: r.flight.DoChan(key, func() (any, error) {
		mine = true
		return ask(context.WithoutCancel(ctx))
	})}
}

// answer returns the result of the request.
func (c call) answer(got singleflight.Result) (Answer, error) {
	if got.Err != nil {
		return Answer{}, got.Err
	}
	answer := got.Val.(Answer)
	if !*c.mine && answer.State == Fetched {
		answer.State = Joined
	}
	return answer, nil
}

// share starts or joins a request and waits for its result.
func (r *Resolver) share(ctx context.Context, key string, ask func(context.Context) (Answer, error)) (Answer, error) {
	c := r.begin(ctx, key, ask)
	select {
	case <-ctx.Done():
		return Answer{}, context.Cause(ctx)
	case got := <-c.done:
		return c.answer(got)
	}
}
