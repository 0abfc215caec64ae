"""The pytest fixtures that the package ships, used as its users use them."""

pytest_plugins = ["pytester"]


def test_fixtures(pytester):
    pytester.makepyfile(
        """
        from klaviyo_audit import audit, audited, acting_as

        def test_redeem(fake_klaviyo, audit_entries):
            klaviyo = audit(fake_klaviyo.client(api_key="test-key"))

            @audited(resource="profile:{profile_id}")
            def redeem(profile_id):
                klaviyo.Lists.delete_list("L1")

            assert len(audit_entries) == 0
            with acting_as("dana"):
                redeem("01H")
            assert [entry.resource for entry in audit_entries] == ["/api/lists/L1", "profile:01H"]
            assert audit_entries[-1].user_id == "dana"
            assert audit_entries[0].call.risk == "critical" or audit_entries[0].call.risk == "high"
            assert len(audit_entries[:1]) == 1
            assert audit_entries.all_phases[0].phase == "journal"

        def test_a_journal_of_its_own(audit_entries):
            assert list(audit_entries) == []
        """
    )
    pytester.runpytest_subprocess("-q").assert_outcomes(passed=2)
