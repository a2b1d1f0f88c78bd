package credentials

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"hubcap/e2e/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// scripted is a source that answers what the test sets.
type scripted struct {
	mu     sync.Mutex
	answer func(ctx context.Context) (auth.Credential, time.Time, error)
	asked  atomic.Int64
}

func (s *scripted) set(answer func(context.Context) (auth.Credential, time.Time, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *scripted) get(ctx context.Context) (auth.Credential, time.Time, error) {
	s.asked.Add(1)
	s.mu.Lock()
	answer := s.answer
	s.mu.Unlock()
	return answer(ctx)
}

func password(p string) auth.Credential { return auth.Credential{Username: "u", Password: p} }

// giving answers with a password that lives for a time; zero is an unknown one.
func giving(p string, life time.Duration) func(context.Context) (auth.Credential, time.Time, error) {
	return func(context.Context) (auth.Credential, time.Time, error) {
		if life == 0 {
			return password(p), time.Time{}, nil
		}
		return password(p), time.Now().Add(life), nil
	}
}

var errSource = errors.New("the source fails")

func failing(context.Context) (auth.Credential, time.Time, error) {
	return auth.EmptyCredential, time.Time{}, errSource
}

// stage is a keeper under a synthetic clock.
type stage struct {
	*Keeper
	source *scripted
}

// staged runs a test with a keeper under a synthetic clock.
func staged(t *testing.T, first func(context.Context) (auth.Credential, time.Time, error), test func(*testing.T, stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scripted{answer: first}
		test(t, stage{&Keeper{source: s}, s})
	})
}

// wantGet checks what Get returns, and how often the source has been asked once
// that has settled.
func (s stage) wantGet(t *testing.T, want string, wantErr error, asked int64) {
	t.Helper()
	got, err := s.Get(t.Context())
	if !errors.Is(err, wantErr) || got.Password != want {
		t.Errorf("got %q, %v; want %q, %v", got.Password, err, want, wantErr)
	}
	synctest.Wait()
	if n := s.source.asked.Load(); n != asked {
		t.Errorf("the source was asked %d times, want %d", n, asked)
	}
}

func TestOneQuestionAtATime(t *testing.T) {
	staged(t, func(context.Context) (auth.Credential, time.Time, error) {
		time.Sleep(time.Second) // of the bubble's
		return password("one"), time.Now().Add(time.Hour), nil
	}, func(t *testing.T, s stage) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if got, err := s.Get(t.Context()); got != password("one") || err != nil {
					t.Errorf("got %+v, %v", got, err)
				}
			})
		}
		all.Wait()
		s.wantGet(t, "one", nil, 1)
	})
}

func TestRenewedBeforeItsEnd(t *testing.T) {
	for _, tc := range []struct {
		name              string
		life, before, due time.Duration
	}{
		{"of an hour", time.Hour, 44 * time.Minute, 46 * time.Minute},
		{"of twelve hours", 12 * time.Hour, 8 * time.Hour, 10 * time.Hour},
		{"of a minute", time.Minute, 44 * time.Second, 46 * time.Second},
		{"of unknown life", 0, 4 * time.Minute, 6 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			staged(t, giving("one", tc.life), func(t *testing.T, s stage) {
				s.wantGet(t, "one", nil, 1)
				time.Sleep(tc.before)
				s.wantGet(t, "one", nil, 1)
				time.Sleep(tc.due - tc.before)
				release := make(chan struct{})
				s.source.set(func(ctx context.Context) (auth.Credential, time.Time, error) {
					<-release
					return giving("two", tc.life)(ctx)
				})
				s.wantGet(t, "one", nil, 2) // behind the requests
				close(release)
				synctest.Wait()
				s.wantGet(t, "two", nil, 2)
			})
		})
	}
}

func TestSourceHangs(t *testing.T) {
	release := make(chan struct{})
	staged(t, func(context.Context) (auth.Credential, time.Time, error) {
		<-release
		return password("late"), time.Now().Add(time.Hour), nil
	}, func(t *testing.T, s stage) {
		release = make(chan struct{}) // of the bubble
		s.wantGet(t, "", errSlow, 1)
		began := time.Now()
		for range 5 {
			s.wantGet(t, "", errSlow, 1)
		}
		if time.Now() != began {
			t.Error("each request waits for a source that hangs")
		}
		time.Sleep(time.Hour)
		s.wantGet(t, "", errSlow, 1) // no second question beside the first
		close(release)
		synctest.Wait()
		s.wantGet(t, "late", nil, 1)
	})
}

func TestRequestLeaves(t *testing.T) {
	staged(t, func(ctx context.Context) (auth.Credential, time.Time, error) {
		<-ctx.Done()
		return failing(ctx)
	}, func(t *testing.T, s stage) {
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("the client is gone")
		cancel(gone)
		if _, err := s.Get(ctx); !errors.Is(err, gone) {
			t.Errorf("got %v", err)
		}
		time.Sleep(time.Minute)
	})
}

func TestSourceFails(t *testing.T) {
	staged(t, failing, func(t *testing.T, s stage) {
		s.wantGet(t, "", errSource, 1)
		s.wantGet(t, "", errSource, 1)
		time.Sleep(pause)
		s.wantGet(t, "", errSource, 2) // without waiting
		s.source.set(giving("one", time.Hour))
		time.Sleep(pause)
		s.wantGet(t, "", errSource, 3)
		s.wantGet(t, "one", nil, 3)
	})
	t.Run("to renew", func(t *testing.T) {
		staged(t, giving("one", time.Hour), func(t *testing.T, s stage) {
			s.wantGet(t, "one", nil, 1)
			s.source.set(failing)
			time.Sleep(50 * time.Minute)
			s.wantGet(t, "one", nil, 2)
			s.wantGet(t, "one", nil, 2)
			time.Sleep(10 * time.Minute)
			s.wantGet(t, "", errSource, 3)
		})
	})
	t.Run("by giving out what has expired", func(t *testing.T) {
		staged(t, giving("one", -time.Second), func(t *testing.T, s stage) { s.wantGet(t, "", errExpired, 1) })
	})
}

func TestRefused(t *testing.T) {
	t.Run("there is no other", func(t *testing.T) {
		staged(t, giving("one", forever), func(t *testing.T, s stage) {
			s.wantGet(t, "one", nil, 1)
			if s.Refused(t.Context(), password("one")) {
				t.Error("another one is claimed")
			}
			s.wantGet(t, "", ErrRefused, 1)
			time.Sleep(pause)
			s.wantGet(t, "one", nil, 2) // tried once more
			s.Refused(t.Context(), password("one"))
			s.wantGet(t, "", ErrRefused, 2)
		})
	})
	t.Run("there is another", func(t *testing.T) {
		staged(t, giving("one", 0), func(t *testing.T, s stage) {
			s.wantGet(t, "one", nil, 1)
			s.Accepted()
			time.Sleep(2 * time.Minute)
			s.source.set(giving("two", 0))
			if !s.Refused(t.Context(), password("one")) {
				t.Error("the source was not asked")
			}
			s.wantGet(t, "two", nil, 2)
			if !s.Refused(t.Context(), password("one")) { // by a request that was slow
				t.Error("the one at hand is doubted for an older one")
			}
			s.wantGet(t, "two", nil, 2)
		})
	})
	t.Run("which was accepted lately", func(t *testing.T) {
		staged(t, giving("one", forever), func(t *testing.T, s stage) {
			s.wantGet(t, "one", nil, 1)
			s.Accepted()
			if s.Refused(t.Context(), password("one")) {
				t.Error("another one is claimed")
			}
			s.wantGet(t, "one", nil, 1)
		})
	})
}
