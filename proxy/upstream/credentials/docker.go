package credentials

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// dockerConfig is docker's config.json and the helper programs that it names. It
// is read each time, because `docker login` changes it.
type dockerConfig struct{ host string }

func (d dockerConfig) get(ctx context.Context) (auth.Credential, time.Time, error) {
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			return auth.EmptyCredential, time.Time{}, fmt.Errorf("docker's config.json cannot be read: %w", path)
		}
		return auth.EmptyCredential, time.Time{}, errors.New("docker's config.json cannot be found or parsed")
	}
	c, err := store.Get(ctx, credentials.ServerAddressFromHostname(d.host))
	var notFound *exec.Error
	switch {
	case ctx.Err() != nil:
		return auth.EmptyCredential, time.Time{}, errSlow
	case errors.As(err, &notFound):
		return auth.EmptyCredential, time.Time{}, fmt.Errorf("the credential helper cannot be run: %w", notFound)
	case err != nil: // its text may quote a helper's output or the entry
		return auth.EmptyCredential, time.Time{}, errors.New("the credential helper fails, or the entry in config.json is malformed")
	case c == auth.EmptyCredential:
		return c, time.Time{}, fmt.Errorf("%s has no entry for %s", store.ConfigPath(), d.host)
	}
	return c, time.Time{}, nil
}
