package credentials

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/ecrpublic"
	"github.com/aws/smithy-go"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// ecrPublic is Amazon's public registry, whose tokens come from one region.
const (
	ecrPublic       = "public.ecr.aws"
	ecrPublicRegion = "us-east-1"
)

// ecrHost matches a private registry of Amazon's: account, FIPS endpoint, region.
var ecrHost = regexp.MustCompile(`^(\d{12})\.dkr[.-]ecr(-fips)?\.([a-z0-9-]+)\.(?:amazonaws\.(?:com|com\.cn|eu)|on\.aws|on\.amazonwebservices\.com\.cn)$`)

func isECR(host string) bool {
	return hostname(host) == ecrPublic || ecrHost.MatchString(strings.Replace(hostname(host), "*", "000000000000", 1))
}

// ecrSource gets a registry's password, which lives for twelve hours, with the AWS
// credentials that the SDK finds.
type ecrSource struct{ Options }

func (s ecrSource) get(ctx context.Context) (auth.Credential, time.Time, error) {
	if !isECR(s.Host) {
		return auth.EmptyCredential, time.Time{}, fmt.Errorf("%s is no registry of Amazon's", s.Host)
	}
	token, ends, err := s.token(ctx)
	if err != nil {
		return auth.EmptyCredential, time.Time{}, explainAWS(ctx, err)
	}
	decoded, err := base64.StdEncoding.DecodeString(aws.ToString(token))
	user, password, ok := strings.Cut(string(decoded), ":")
	if err != nil || !ok {
		return auth.EmptyCredential, time.Time{}, errors.New("amazon's answer cannot be parsed")
	}
	return auth.Credential{Username: user, Password: password}, aws.ToTime(ends), nil
}

func (s ecrSource) token(ctx context.Context) (token *string, ends *time.Time, err error) {
	if hostname(s.Host) == ecrPublic {
		cfg, err := s.config(ctx, ecrPublicRegion, false)
		if err != nil {
			return nil, nil, err
		}
		out, err := ecrpublic.NewFromConfig(cfg).GetAuthorizationToken(ctx, &ecrpublic.GetAuthorizationTokenInput{})
		if err != nil || out.AuthorizationData == nil {
			return nil, nil, err
		}
		return out.AuthorizationData.AuthorizationToken, out.AuthorizationData.ExpiresAt, nil
	}
	m := ecrHost.FindStringSubmatch(hostname(s.Host))
	cfg, err := s.config(ctx, m[3], m[2] != "")
	if err != nil {
		return nil, nil, err
	}
	// The registry is named although newer services ignore it: the credentials
	// may belong to another account.
	in := &ecr.GetAuthorizationTokenInput{RegistryIds: []string{m[1]}} //nolint:staticcheck // see above
	out, err := ecr.NewFromConfig(cfg).GetAuthorizationToken(ctx, in)
	if err != nil || len(out.AuthorizationData) == 0 {
		return nil, nil, err
	}
	return out.AuthorizationData[0].AuthorizationToken, out.AuthorizationData[0].ExpiresAt, nil
}

// config loads the environment's AWS settings, which may have changed since the
// last token.
func (s ecrSource) config(ctx context.Context, region string, fips bool) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.Proxy = s.Proxy
		t.DisableKeepAlives = true // the next request is hours away
		t.TLSClientConfig = &tls.Config{RootCAs: s.RootCAs(), MinVersion: tls.VersionTLS12}
	})
	options := []func(*config.LoadOptions) error{
		config.WithRegion(region), config.WithHTTPClient(client), config.WithRetryMaxAttempts(2),
	}
	if fips {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	return config.LoadDefaultConfig(ctx, options...)
}

// explainAWS returns a failure without secrets: AWS's own message, if there is
// one.
func explainAWS(ctx context.Context, err error) error {
	var api smithy.APIError
	switch {
	case ctx.Err() != nil:
		return errSlow
	case errors.As(err, &api):
		return fmt.Errorf("amazon refuses: %s: %.300s", api.ErrorCode(), api.ErrorMessage())
	default:
		return errors.New("amazon cannot be reached, or the environment holds no AWS credentials")
	}
}
