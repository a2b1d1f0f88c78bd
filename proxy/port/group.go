package port

import (
	"context"
	"sync"
)

// Group is ports that are served together and end together.
type Group []*Port

// Close gives all ports back and cuts what is under way.
func (g Group) Close() {
	for _, p := range g {
		p.Close()
	}
}

// Serve answers at all ports until ctx ends. When one fails, all are closed,
// and the error is that port's.
func (g Group) Serve(ctx context.Context) error {
	failed := make(chan error, len(g))
	for _, p := range g {
		go func() { failed <- p.Serve() }()
	}
	select {
	case err := <-failed:
		g.Close()
		return err
	case <-ctx.Done():
		return nil
	}
}

// Shutdown gives all ports back and waits for the answers under way, until ctx
// ends: what has not ended then is cut, port by port, and late is called.
func (g Group) Shutdown(ctx context.Context, late func()) {
	var ending sync.WaitGroup
	for _, p := range g {
		ending.Go(func() {
			if err := p.Shutdown(ctx); err != nil {
				late()
				p.Close()
			}
		})
	}
	ending.Wait()
}
